"""The thread of the models: what ends there, how it is named, and what is told about it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import cast

import pytest

from agents.caching import BoundedCache, counted_caches
from agents.engine import Engine, MemoryFullError
from agents.health import Health
from agents.metrics import exposition
from agents.watchdog import EXIT_STUCK, start_watchdog
from shared.bus.asking import EngineDeadError
from shared.bus.consumer import Consumer
from shared.errors import TransientError


class AcceleratorError(RuntimeError):
    """As torch calls it."""


class OutOfMemoryError(RuntimeError):
    """As torch calls it."""


class LostEngineError(AcceleratorError):
    """One of an engine's own."""


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine(limit_s=0.2)
    yield made
    made.close()


def raises(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("error", [AcceleratorError("assert"), LostEngineError("x")])
async def test_an_engine_that_is_gone_is_told_by_its_name(engine: Engine, error: Exception) -> None:
    with pytest.raises(EngineDeadError, match=type(error).__name__):
        await engine.run(raises, error)


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("HIP out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: Out of memory"),
        MemoryError("no room"),
    ],
)
async def test_a_batch_without_room_is_worth_another_try_and_holds_on_to_nothing(
    engine: Engine, error: Exception
) -> None:
    with pytest.raises(MemoryFullError, match=type(error).__name__) as raised:
        await engine.run(raises, error)
    assert isinstance(raised.value, TransientError)
    # the failed batch's frames, and all memory they hold, are gone
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("shape mismatch")])
async def test_other_errors_pass_unchanged(engine: Engine, error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        await engine.run(raises, error)
    assert raised.value is error


async def test_time_counts_from_when_work_begins_not_from_when_it_queues(engine: Engine) -> None:
    release, begun = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        release.wait()

    first, second = engine.run(work), engine.run(time.monotonic)
    await asyncio.to_thread(begun.wait)
    assert engine.busy_for_s > 0
    await asyncio.sleep(0.25)
    assert engine.is_hung
    (reason,) = Health(engine, canary_s=0).why_model_not_ready()
    assert "limit 0.2 s" in reason
    release.set()
    await asyncio.gather(first, second)
    assert engine.busy_for_s == 0
    assert not engine.is_hung


async def test_the_watchdog_ends_the_process_when_work_takes_too_long(engine: Engine) -> None:
    health = Health(engine, canary_s=0)
    ended: list[int] = []
    release = threading.Event()
    work = engine.run(release.wait)
    watchdog = start_watchdog(engine, health, ended.append)
    await asyncio.to_thread(watchdog.join, 10)
    assert ended == [EXIT_STUCK]
    release.set()
    await work


async def test_health_is_red_while_loading_stopping_or_without_a_sign_of_the_model(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    health = Health(engine, canary_s=30)
    assert health.why_not_ready() == ["the models are being loaded"]
    assert health.why_not_alive() == []
    health.serving([], [])
    engine.passed()
    assert health.why_not_ready() == []
    now = time.monotonic()
    # No item for more than two canaries' time: something is wrong with them
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    (loop, model) = health.why_not_ready()
    assert loop == "the event loop has stood still for 61 s"
    assert model == "no item has passed the model for 61 s"
    assert health.why_not_alive() == [loop]
    # An event loop that turns again takes the first away, a canary the second
    turning = asyncio.create_task(health.note_turns())
    await asyncio.sleep(0)
    engine.passed()
    assert health.why_not_ready() == []
    health.stopping()
    assert health.why_not_ready() == ["stopping"]
    assert health.why_not_alive() == []
    turning.cancel()


async def test_an_agent_whose_loop_has_ended_is_neither_alive_nor_ready(engine: Engine) -> None:
    async def broken() -> None:
        raise RuntimeError("the loop broke")

    health = Health(engine, canary_s=30)
    engine.passed()
    serving, ended = asyncio.create_task(asyncio.sleep(60)), asyncio.create_task(broken())
    agents = [SimpleNamespace(agent=name, redis_is_away=False) for name in ("question", "clip")]
    health.serving(cast(Sequence[Consumer], agents), [serving, ended])  # type: ignore[list-item]
    assert health.why_not_ready() == []
    await asyncio.wait([ended])
    assert health.why_not_alive() == ["the loop of the clip agent has ended"]
    assert health.why_not_ready() == ["the loop of the clip agent has ended"]
    assert isinstance(ended.exception(), RuntimeError)
    serving.cancel()


async def test_metrics_of_a_process_that_still_loads_can_be_read(engine: Engine) -> None:
    text = exposition(Health(engine, canary_s=30)).decode()
    assert "xr_agent_ready 0.0" in text


def test_hits_and_misses_of_named_caches_are_counted() -> None:
    cache: BoundedCache[str, int] = BoundedCache(2, "test-cache")
    cache.put("a", 1)
    assert (cache.get("a"), cache.get("b"), cache.get("a")) == (1, None, 1)
    assert counted_caches()["test-cache"] == (2, 1)
    unnamed: BoundedCache[str, int] = BoundedCache(2)
    unnamed.get("a")
    assert "" not in counted_caches()
