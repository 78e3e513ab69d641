"""Redis killed, away, emptied and full; the bus's queues bounded."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from redis import Redis

from tests.faults.catalogue import case
from tests.faults.processes import AGENTS
from tests.faults.system import wait_for
from tests.faults.watched_run import Outcome, WatchedRun
from tests.faults.workplace import Workplace

_AWAY_S = 20.0
_FULL_S = 8.0
_QUEUE_LIMIT = 48


@case("redis-killed", "kill -9 of Redis, which keeps an append-only file")
def redis_killed(workplace: Workplace, name: str) -> Outcome:
    with workplace.system(name) as system, WatchedRun.submit(system, workplace.task) as run:
        run.reach(workplace.draw(name).uniform(0.2, 0.4))
        system.signal("redis", signal.SIGKILL)
        return run.judge(workplace.reference, time.monotonic())


@case("redis-away", f"Redis away for {_AWAY_S:g} s, then back with its data")
def redis_away(workplace: Workplace, name: str) -> Outcome:
    with (
        workplace.redis(name) as redis,
        workplace.system(name, redis=redis) as system,
        WatchedRun.submit(system, workplace.task) as run,
    ):
        run.reach(workplace.draw(name).uniform(0.2, 0.4))
        redis.kill()
        time.sleep(_AWAY_S)  # this is the fault
        redis.start()
        remark = "recovery counted from the moment Redis was back"
        return run.judge(workplace.reference, time.monotonic(), remarks=(remark,))


@case(
    "redis-emptied",
    "Redis restarted without its data",
    "the coordinator asks again and goes on from the disk; the same bytes, each query once",
)
def redis_emptied(workplace: Workplace, name: str) -> Outcome:
    with (
        workplace.redis(name) as redis,
        workplace.system(name, redis=redis) as system,
        WatchedRun.submit(system, workplace.task) as run,
    ):
        run.reach(workplace.draw(name).uniform(0.2, 0.4))
        redis.kill()
        _remove_data(redis.folder)
        redis.start()
        return run.judge(workplace.reference, time.monotonic())


@case(
    "redis-full",
    f"Redis at maxmemory for {_FULL_S:g} s: every write is refused",
    "senders and answers wait, nothing is dropped; the same bytes, each query once",
)
def redis_full(workplace: Workplace, name: str) -> Outcome:
    with (
        workplace.redis(name) as redis,
        workplace.system(name, redis=redis) as system,
        WatchedRun.submit(system, workplace.task) as run,
        system.redis() as looking,
    ):
        run.reach(workplace.draw(name).uniform(0.2, 0.4))
        refused_before = _refused_writes(looking)
        looking.config_set("maxmemory", max(1, _used_memory(looking) - 1))
        wait_for("Redis refuses writes", lambda: _refused_writes(looking) > refused_before, 20.0)
        time.sleep(_FULL_S)  # this is the fault
        refused = _refused_writes(looking) - refused_before
        looking.config_set("maxmemory", 0)
        return run.judge(
            workplace.reference,
            time.monotonic(),
            remarks=(f"{refused} writes refused; recovery counted from the moment of new room",),
        )


@case(
    "queue-full",
    f"streams bounded to {_QUEUE_LIMIT} messages, with far more to send",
    f"senders wait, no stream ever holds more than {_QUEUE_LIMIT}; the same bytes, each query once",
)
def queue_full(workplace: Workplace, name: str) -> Outcome:
    # Small messages in great number: one candidate each, and many queries under way. What is asked
    # in one message changes no answer.
    given = {"XR_QUEUE_LIMIT": str(_QUEUE_LIMIT), "XR_VERIFY_CHUNK": "5", "XR_WINDOW": "64"}
    longest = 0
    with (
        workplace.system(name, call_ms=60.0, given=given) as system,
        WatchedRun.submit(system, workplace.task) as run,
        system.redis() as looking,
    ):
        while run.recorded < workplace.task.queries:
            view = run.view()
            if view is None or view.state not in ("queued", "running"):
                break
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                lengths = [int(looking.xlen(f"xr:{agent}:lo")) for agent in AGENTS]
                longest = max(longest, *lengths)
                time.sleep(0.005)
        problems = []
        if longest > _QUEUE_LIMIT:
            problems.append(f"a stream held {longest} messages")
        if longest < _QUEUE_LIMIT:
            problems.append(f"no stream was ever full: {longest} messages at most")
        remark = f"longest stream {longest} messages"
        return run.judge(workplace.reference, None, remarks=(remark,), problems=tuple(problems))


def _remove_data(folder: Path) -> None:
    for path in (*folder.glob("*.aof*"), *folder.glob("*.rdb"), *folder.glob("appendonlydir/*")):
        path.unlink()


def _used_memory(redis: Redis) -> int:
    return int(redis.info("memory")["used_memory"])


def _refused_writes(redis: Redis) -> int:
    """Commands Redis has refused for want of memory since its start."""
    errors = redis.info("errorstats")
    entry = errors.get("errorstat_OOM", {})
    return int(entry.get("count", 0)) if isinstance(entry, dict) else 0
