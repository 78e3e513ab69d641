"""Which agents are alive and what models they serve, from their heartbeats."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from shared.bus.records import LiveAgent
from shared.contracts.skills import AgentName
from shared.errors import PermanentError
from shared.knobs import Knobs

logger = logging.getLogger(__name__)

Identity = dict[str, Any]
"""What an agent serves: backend, checkpoint, revision, prompt digests, versions."""
ReadRoster = Callable[[], Awaitable[Sequence[LiveAgent]]]

_PROMPT_DIGEST = "prompt."
_ROLE_SKILLS: dict[str, dict[str, tuple[str, ...]]] = {
    "llm": {"imagination": ("imagine_text",), "question": ("propose", "verify_caption")},
    "mllm": {"imagination": ("imagine_image",), "question": ("verify_image",)},
    "captioner": {"imagination": ("caption",)},
    "evaluator": {"question": ("compare",)},
    "clip": {"similarity": ("embeddings",)},
}
"""The knob that names a role's model -> agent -> the skills that model has."""


def agents_needed(knobs: Knobs) -> tuple[AgentName, ...]:
    """The imagination agent also is the captioner, so every run needs to know which one it is."""
    needs_questions = "verify" in knobs.stages or "compare" in knobs.stages
    return ("imagination", "similarity", *(("question",) if needs_questions else ()))


async def wait_for_agents(
    read_roster: ReadRoster,
    needed: Collection[str],
    tell: Callable[[str], None],
    *,
    knobs: Knobs | None = None,
    poll_s: float = 0.5,
    mixture_patience_s: float = 15.0,
) -> dict[str, Identity]:
    """Wait until every agent type has a live worker; the identity of each type.

    A mixture of identities, and models that are not those the knobs name, are waited out for a
    while (old workers' heartbeats outlive them by seconds), then refused.

    Args:
        tell: called with what is being waited for, each time that changes.
    Raises: PermanentError: workers of one type serve different models, or other ones than asked.
    """
    told = ""
    mixed_since: float | None = None
    while True:
        roster = await read_roster()
        missing = sorted(set(needed) - {agent.agent for agent in roster})
        message = f"waiting for {' and '.join(_agent(name) for name in missing)}"
        if missing and message != told:
            logger.info(message)
            tell(message)
            told = message
        identities = identities_of(roster, needed)
        mixture = describe_mixture(roster, needed) or describe_other_models(identities, knobs)
        if mixture and mixture != told:
            tell(mixture)
            told = mixture
        if not mixture and not missing:
            return identities
        mixed_since = (mixed_since or time.monotonic()) if mixture else None
        if mixed_since is not None and time.monotonic() - mixed_since > mixture_patience_s:
            raise PermanentError(mixture)
        await asyncio.sleep(poll_s)


def identities_of(roster: Iterable[LiveAgent], needed: Collection[str]) -> dict[str, Identity]:
    """Agent type -> its identity; of types that are alive."""
    return {
        agent.agent: identity_fields(agent.identity) for agent in roster if agent.agent in needed
    }


def describe_mixture(roster: Iterable[LiveAgent], needed: Collection[str]) -> str:
    """Empty, or which workers of one type serve different models."""
    workers: dict[str, dict[str, list[str]]] = {}
    for agent in roster:
        if agent.agent in needed:
            identity = json.dumps(identity_fields(agent.identity), sort_keys=True)
            workers.setdefault(agent.agent, {}).setdefault(identity, []).append(agent.worker)
    for agent_name, by_identity in sorted(workers.items()):
        if len(by_identity) > 1:
            groups = "; ".join(
                f"{', '.join(sorted(names))}: {identity}"
                for identity, names in sorted(by_identity.items())
            )
            return (
                f"workers of the {agent_name} agent serve different models ({groups}): "
                f"results would be a mixture; stop the ones that are not meant"
            )
    return ""


def describe_other_models(identities: Mapping[str, Identity], knobs: Knobs | None) -> str:
    """Empty, or which of the models that the knobs name is not the one that is served."""
    for role, agents in _ROLE_SKILLS.items():
        wanted = getattr(knobs, role) if knobs is not None else ""
        for agent, skills in agents.items():
            for skill in skills if wanted and agent in identities else ():
                served = _served(identities[agent], skill)
                if not _is_the_same(wanted, served):
                    return (
                        f"{role} is {wanted!r}, but the {agent} agent serves {skill} with"
                        f" {served or 'a model it does not name'}: start agents with that model"
                        f" (XR_{role.upper()}, or a profile that names it), or leave {role} out"
                    )
    return ""


def _served(identity: Identity, skill: str) -> str:
    """The model of a skill as "checkpoint@revision"; the similarity agent has one for all."""
    prompt = str(identity.get(f"{_PROMPT_DIGEST}{skill}", ""))
    if prompt:
        return prompt.rpartition(" to ")[2].partition(":")[2].removesuffix("@")
    revision = identity.get("revision", "")
    return f"{identity.get('checkpoint', '')}{'@' if revision else ''}{revision}"


def _is_the_same(wanted: str, served: str) -> bool:
    """Whether a name or folder, with or without a revision, means the checkpoint that is served.

    A folder is compared by its own name, as agents tell no more of it; so is a name that was
    given without its organization.
    """
    name, _, revision = wanted.partition("@")
    checkpoint, _, version = served.partition("@")
    folders = name.startswith((".", "/")) or "/" not in name or "/" not in checkpoint
    if folders:
        name, checkpoint = name.rstrip("/").rpartition("/")[2], checkpoint.rpartition("/")[2]
    return name == checkpoint and (not revision or revision == version)


def identity_fields(identity: str | Identity) -> Identity:
    """A heartbeat's identity as fields; plain text becomes {"identity": text}."""
    if not isinstance(identity, str):
        return dict(identity)
    try:
        fields = json.loads(identity)
    except ValueError:
        fields = None
    return fields if isinstance(fields, dict) else {"identity": identity}


def prompt_digests(identities: Mapping[str, Identity]) -> dict[str, str]:
    """Skill -> the digest of its prompt, of all skills of these agents."""
    return {
        field.removeprefix(_PROMPT_DIGEST): str(value).partition(" to ")[0]
        for identity in identities.values()
        for field, value in identity.items()
        if field.startswith(_PROMPT_DIGEST)
    }


def captioner_identity(imagination: Identity) -> Identity:
    """What shapes a caption: the agent's identity without the prompts of its other skills."""
    return {
        name: value
        for name, value in imagination.items()
        if not name.startswith(_PROMPT_DIGEST) or name == f"{_PROMPT_DIGEST}caption"
    }


def clip_label(similarity: Identity | None, default: str) -> str:
    """A short name of the CLIP checkpoint, for the names of run folders."""
    for field in ("checkpoint", "model", "identity"):
        name = str((similarity or {}).get(field, "")).rstrip("/")
        if name:
            return name.rsplit("/", 1)[-1]
    return default


def _agent(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name} agent"
