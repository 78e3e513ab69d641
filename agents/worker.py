"""One process of agents: loads the models of its roles once, warms them up, serves the bus."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from agents.backends.answer_cache import open_answer_cache
from agents.backends.contract import EmbeddingModel, LanguageModel
from agents.caching import counted_caches
from agents.derivatives import keep_derivatives
from agents.engine import Engine
from agents.health import Health
from agents.imagination.skills import ImaginationAgent
from agents.profiles import AGENT_ROLES, SKILL_ROLES, Model, load_models, load_profile
from agents.prompting import JOINT_SKILLS, PromptSet, load_prompts
from agents.question.skills import QuestionAgent
from agents.similarity.indexes import open_indexes
from agents.similarity.skills import SimilarityAgent
from agents.spending import SharedClock, shares, tallied
from agents.stores import Databases, Galleries
from agents.warm_up import warm_up
from shared import tracing
from shared.bus.connection import connect, wait_until_reachable
from shared.bus.consumer import Consumer, EngineDeadError
from shared.bus.replying import Answered
from shared.contracts.messages import Failure, RequestMessage
from shared.contracts.skills import AgentName, Result
from shared.errors import ConfigurationError
from shared.image_files import limit_pixels
from shared.prompt_files import keep_prompt
from shared.settings import Settings
from shared.tasks import stop_tasks

Answer = Callable[[Sequence[RequestMessage]], list[Result | Failure]]

logger = logging.getLogger(__name__)

_HAND_BACK_WITHIN_S = 2.0
_LONGEST_CANARY_PAUSE_S = 5.0


@dataclass(frozen=True)
class ServedAgent:
    """One agent of this process.

    Attributes:
        answer: its skills.
        identity: what its heartbeats carry (JSON).
        concurrency: messages its models answer at once; 1 = in batches, on the one thread.
        spent: what answering has cost since the start, see `agents.spending`.
    """

    name: AgentName
    answer: Answer
    identity: str
    concurrency: int = 1
    spent: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class PreparedAgents:
    """The agents of this process; `canary` sends a real item through every model of theirs."""

    agents: list[ServedAgent]
    canary: Callable[[], None]


def prepare_agents(names: Sequence[AgentName], settings: Settings) -> PreparedAgents:
    """Load the models of these agents, every one once, and send a real item through each.

    Raises: ConfigurationError: the profile, its prompts or a model can't be used.
    """
    limit_pixels(settings.max_pixels)
    keep_derivatives(settings.home / "derivatives")
    profile = load_profile(settings.profile)
    prompts = load_prompts(profile.prompts)
    if profile.joint and (missing := set(JOINT_SKILLS) - prompts.templates.keys()):
        raise ConfigurationError(
            f"profile {profile.name}: joint is true, but prompt set {prompts.name} has no"
            f" {' and no '.join(sorted(missing))}"
        )
    started = time.monotonic()
    models = load_models(profile, names, settings, open_answer_cache(settings))
    loaded = time.monotonic()
    warm_up(models, prompts)
    logger.info(
        "models of profile %s loaded in %.1f s, warm after %.1f s more",
        profile.name, loaded - started, time.monotonic() - loaded,
    )  # fmt: skip
    _keep_prompts(prompts, names, settings)
    galleries = Galleries(settings.galleries_folder)
    databases = Databases(settings.image_db_folder)
    served = [
        ServedAgent(
            name,
            _answer(name, models, prompts, galleries, databases, profile.joint, settings),
            json.dumps(agent_identity(name, models, prompts, profile.joint)),
            min(getattr(models[role], "concurrency", 1) for role in AGENT_ROLES[name]),
        )
        for name in names
    ]
    return PreparedAgents(served, lambda: warm_up(models, prompts))


def agent_identity(
    name: AgentName, models: Mapping[str, Model], prompts: PromptSet, joint: bool = False
) -> dict[str, str]:
    """Everything that shapes this agent's answers.

    The fields of the model of its first role (the captioner, the CLIP, the proposer) as they are,
    and for each skill "prompt.<skill>": the digest of its prompt and the model it is put to.
    """
    roles = AGENT_ROLES[name]
    identity = models[roles[0]].describe()
    for skill, role in SKILL_ROLES.items():
        if role in roles:
            jointly = f"{skill}_jointly"
            digest = prompts.skill_digest(jointly if joint and jointly in JOINT_SKILLS else skill)
            identity[f"prompt.{skill}"] = f"{digest} to {_short(models[role])}"
    return identity


def _keep_prompts(prompts: PromptSet, names: Sequence[AgentName], settings: Settings) -> None:
    """Put the prompts of these agents where every run finds those it was answered with."""
    try:
        for skill, role in SKILL_ROLES.items():
            if any(role in AGENT_ROLES[name] for name in names):
                digest, source = prompts.skill_digest(skill), prompts[skill].source
                keep_prompt(settings.prompts_folder, digest, source)
    except OSError as error:
        logger.warning("runs will have the digests of the prompts only: %s", error)


async def serve(
    prepared: PreparedAgents,
    settings: Settings,
    stop: asyncio.Event,
    engine: Engine,
    health: Health,
) -> bool:
    """Consume the requests of these agents until `stop` is set; the batches in hand are finished.

    Returns: false when they were not within XR_GRACE_S, and handed back.
    Raises: whatever ends a consumer: the process is of no use then.
    """
    redis = connect(settings.redis_url)
    try:
        if not await _reachable(redis, stop):
            return True
        worker = settings.worker_name or f"{socket.gethostname()}-{os.getpid()}"
        clock = SharedClock()
        consumers = [
            Consumer(
                redis,
                agent.name,
                _handler(agent, engine, clock),
                worker=worker,
                max_batch=settings.max_batch,
                concurrency=agent.concurrency,
                max_wait_ms=settings.max_wait_ms,
                lease_s=settings.lease_s,
                max_deliveries=settings.max_deliveries,
                identity=agent.identity,
                is_ready=lambda: not health.why_model_not_ready(),
                caches=counted_caches,
            )
            for agent in prepared.agents
        ]
        health.spent = {agent.name: agent.spent for agent in prepared.agents}
        engine.passed()  # warm-up was the first real item
        names = ", ".join(agent.name for agent in prepared.agents)
        logger.info("serving %s as %s", names, worker)
        proving = _keep_proving(engine, prepared.canary, settings.canary_s)
        drained = await _run_until(stop, consumers, proving, health, settings.grace_s)
        logger.info(
            "stopped after %d requests, %d of them failed",
            sum(consumer.messages for consumer in consumers),
            sum(consumer.failures for consumer in consumers),
        )
        return drained
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


async def _run_until(
    stop: asyncio.Event,
    consumers: Sequence[Consumer],
    proving: Coroutine[None, None, None],
    health: Health,
    grace_s: float,
) -> bool:
    """Whether the batches in hand were finished, rather than handed back after `grace_s`."""
    runs = [asyncio.create_task(consumer.run()) for consumer in consumers]
    stopping = asyncio.create_task(stop.wait())
    canaries = asyncio.create_task(proving)
    health.serving(consumers, runs)
    # What ends before `stop` ends the process, whatever the others do.
    await asyncio.wait({*runs, stopping, canaries}, return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        logger.info("draining %d requests", sum(consumer.in_flight for consumer in consumers))
    health.stopping()
    stopping.cancel()
    for consumer in consumers:
        consumer.stop()
    _, unfinished = await asyncio.wait(runs, timeout=grace_s)
    if unfinished:
        await _hand_back(consumers)
    await stop_tasks([canaries, *unfinished])
    for task in (*runs, canaries):
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
    return not unfinished


async def _hand_back(consumers: Sequence[Consumer]) -> None:
    for consumer in consumers:
        try:
            async with asyncio.timeout(_HAND_BACK_WITHIN_S):
                await consumer.hand_back()
        except (RedisError, TimeoutError) as error:
            logger.warning("%s: not handed back, leases will lapse: %s", consumer.name, error)


async def _keep_proving(engine: Engine, canary: Callable[[], None], every_s: float) -> None:
    """An idle engine gets a canary item now and then, so that its health is known.

    Raises: EngineDeadError: the canary found it so.
    """
    while every_s:
        await asyncio.sleep(min(every_s / 4, _LONGEST_CANARY_PAUSE_S))
        if engine.busy_for_s or engine.idle_for_s < every_s:
            continue
        try:
            await engine.run(canary)
        except EngineDeadError:
            raise
        except Exception as error:
            logger.error("the canary item does not pass the model: %s", error)
        else:
            engine.passed()
    await asyncio.Event().wait()  # nobody looks: as if it always passed


def _handler(
    agent: ServedAgent, engine: Engine, clock: SharedClock
) -> Callable[[Sequence[RequestMessage]], Awaitable[Sequence[Answered]]]:
    run = engine.run if agent.concurrency == 1 else engine.run_beside

    async def handle(messages: Sequence[RequestMessage]) -> Sequence[Answered]:
        started, began_ns = time.monotonic(), time.time_ns()
        answers = await run(_answered, agent, clock, messages)
        for message, answer in zip(messages, answers, strict=False):
            agent.spent.update(answer.spent)
            _record_span(agent.name, message, answer.body, began_ns)
        if any(not isinstance(answer.body, Failure) for answer in answers):
            engine.passed()
        elapsed_ms = (time.monotonic() - started) * 1000
        logger.debug("%s answered %d requests in %.1f ms", agent.name, len(messages), elapsed_ms)
        return answers

    return handle


def _answered(
    agent: ServedAgent, clock: SharedClock, messages: Sequence[RequestMessage]
) -> list[Answered]:
    """The answers, each with its share of what they cost together."""
    with tallied() as spent, clock.working(spent):
        answers = agent.answer(messages)
    parts = shares(spent, len(messages))
    return [Answered(*each) for each in zip(answers, parts, strict=True)]


def _record_span(
    agent: AgentName, message: RequestMessage, answer: Result | Failure, began_ns: int
) -> None:
    """The agent's part in a query's trace: how long its request was in a batch."""
    if message.traceparent:
        tracing.record(
            f"{agent} {type(message.body).__name__}",
            message.traceparent,
            began_ns,
            time.time_ns(),
            failure=answer.reason if isinstance(answer, Failure) else "",
            **{"xr.message": message.message_id},
        )


def _answer(
    name: AgentName,
    models: Mapping[str, Model],
    prompts: PromptSet,
    galleries: Galleries,
    databases: Databases,
    joint: bool,
    settings: Settings,
) -> Answer:
    if name == "similarity":
        clip = cast(EmbeddingModel, models["clip"])
        indexes = open_indexes(settings, clip)
        return SimilarityAgent(clip, galleries, databases, indexes).answer
    language = {role: cast(LanguageModel, models[role]) for role in AGENT_ROLES[name]}
    if name == "imagination":
        return ImaginationAgent(language, prompts, galleries).answer
    return QuestionAgent(language, prompts, galleries, databases, joint).answer


def _short(model: Model) -> str:
    identity = model.describe()
    version = identity.get("revision") or identity.get("digest", "")[:16]
    return f"{identity.get('backend', '')}:{identity.get('checkpoint', '')}@{version}"
