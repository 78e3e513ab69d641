"""One process of agents: loads the models of its roles once, warms them up, serves the bus."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

from redis.asyncio import Redis

from agents.backends.contract import EmbeddingModel, LanguageModel
from agents.imagination.skills import ImaginationAgent
from agents.profiles import AGENT_ROLES, SKILL_ROLES, Model, load_models, load_profile
from agents.prompting import PromptSet, load_prompts
from agents.question.skills import QuestionAgent
from agents.similarity.skills import SimilarityAgent
from agents.stores import Databases, Galleries
from agents.warm_up import warm_up
from shared.bus.connection import connect, wait_until_reachable
from shared.bus.consumer import Consumer, EngineDeadError
from shared.contracts.messages import Failure, RequestMessage
from shared.contracts.skills import AgentName, Result
from shared.settings import Settings

Answer = Callable[[Sequence[RequestMessage]], list[Result | Failure]]

logger = logging.getLogger(__name__)

_DEAD_ENGINE_ERRORS = {"AcceleratorError"}
"""torch's name for a GPU context that is lost for good; torch itself is not imported here."""


@dataclass(frozen=True)
class ServedAgent:
    """One agent of this process: its skills, and the identity its heartbeats carry (JSON)."""

    name: AgentName
    answer: Answer
    identity: str


def prepare_agents(names: Sequence[AgentName], settings: Settings) -> list[ServedAgent]:
    """Load the models of these agents, every one once, and send a real item through each.

    Raises: ConfigurationError: the profile, its prompts or a model can't be used.
    """
    profile = load_profile(settings.profile)
    prompts = load_prompts(profile.prompts)
    started = time.monotonic()
    models = load_models(profile, names)
    loaded = time.monotonic()
    warm_up(models, prompts)
    logger.info(
        "models of profile %s loaded in %.1f s, warm after %.1f s more",
        profile.name, loaded - started, time.monotonic() - loaded,
    )  # fmt: skip
    galleries = Galleries(settings.galleries_folder)
    databases = Databases(settings.image_db_folder)
    return [
        ServedAgent(
            name,
            _answer(name, models, prompts, galleries, databases),
            json.dumps(agent_identity(name, models, prompts)),
        )
        for name in names
    ]


def agent_identity(
    name: AgentName, models: Mapping[str, Model], prompts: PromptSet
) -> dict[str, str]:
    """Everything that shapes this agent's answers.

    The fields of the model of its first role (the captioner, the CLIP, the proposer) as they are,
    and for each skill "prompt.<skill>": the digest of its prompt and the model it is put to.
    """
    roles = AGENT_ROLES[name]
    identity = models[roles[0]].describe()
    for skill, role in SKILL_ROLES.items():
        if role in roles:
            identity[f"prompt.{skill}"] = f"{prompts.skill_digest(skill)} to {_short(models[role])}"
    return identity


async def serve(
    agents: Sequence[ServedAgent],
    settings: Settings,
    stop: asyncio.Event,
    compute: ThreadPoolExecutor,
) -> None:
    """Consume the requests of these agents until `stop` is set; the batches in hand are finished.

    Args:
        compute: one thread, as models aren't re-entrant; shared by all agents of the process.
    Raises: whatever ends a consumer: the process is of no use then.
    """
    redis = connect(settings.redis_url)
    try:
        if not await _reachable(redis, stop):
            return
        worker = settings.worker_name or f"{socket.gethostname()}-{os.getpid()}"
        consumers = [
            Consumer(
                redis,
                agent.name,
                _handler(agent, compute),
                worker=worker,
                max_batch=settings.max_batch,
                max_wait_ms=settings.max_wait_ms,
                lease_s=settings.lease_s,
                max_deliveries=settings.max_deliveries,
                identity=agent.identity,
            )
            for agent in agents
        ]
        logger.info("serving %s as %s", ", ".join(agent.name for agent in agents), worker)
        await _run_until(stop, consumers)
        logger.info(
            "stopped after %d requests, %d of them failed",
            sum(consumer.messages for consumer in consumers),
            sum(consumer.failures for consumer in consumers),
        )
    finally:
        await redis.aclose()


async def _reachable(redis: Redis, stop: asyncio.Event) -> bool:
    """True once Redis answers; false when told to stop before."""
    waiting = asyncio.create_task(wait_until_reachable(redis))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if waiting.done():
        waiting.result()
        return True
    waiting.cancel()
    return False


async def _run_until(stop: asyncio.Event, consumers: Sequence[Consumer]) -> None:
    runs = [asyncio.create_task(consumer.run()) for consumer in consumers]
    stopping = asyncio.create_task(stop.wait())
    # A consumer that returns or raises before `stop` ends the process, whatever the others do.
    await asyncio.wait({*runs, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        logger.info("draining %d requests", sum(consumer.in_flight for consumer in consumers))
    stopping.cancel()
    for consumer in consumers:
        consumer.stop()
    outcomes = await asyncio.gather(*runs, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


def _handler(
    agent: ServedAgent, compute: ThreadPoolExecutor
) -> Callable[[Sequence[RequestMessage]], asyncio.Future[list[Result | Failure]]]:
    def answer(messages: Sequence[RequestMessage]) -> list[Result | Failure]:
        started = time.monotonic()
        try:
            answers = agent.answer(messages)
        except Exception as error:
            if type(error).__name__ in _DEAD_ENGINE_ERRORS:
                raise EngineDeadError(str(error)) from error
            raise
        elapsed_ms = (time.monotonic() - started) * 1000
        logger.debug("%s answered %d requests in %.1f ms", agent.name, len(messages), elapsed_ms)
        return answers

    def handle(messages: Sequence[RequestMessage]) -> asyncio.Future[list[Result | Failure]]:
        return asyncio.get_running_loop().run_in_executor(compute, answer, messages)

    return handle


def _answer(
    name: AgentName,
    models: Mapping[str, Model],
    prompts: PromptSet,
    galleries: Galleries,
    databases: Databases,
) -> Answer:
    if name == "similarity":
        return SimilarityAgent(cast(EmbeddingModel, models["clip"]), galleries, databases).answer
    language = {role: cast(LanguageModel, models[role]) for role in AGENT_ROLES[name]}
    if name == "imagination":
        return ImaginationAgent(language, prompts, galleries).answer
    return QuestionAgent(language, prompts, galleries, databases).answer


def _short(model: Model) -> str:
    identity = model.describe()
    version = identity.get("revision") or identity.get("digest", "")[:16]
    return f"{identity.get('backend', '')}:{identity.get('checkpoint', '')}@{version}"
