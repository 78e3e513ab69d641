"""Hostile bytes on every stream, reply list and job queue all through a run."""

from __future__ import annotations

import pickle
import random
import time
import zlib
from pathlib import Path
from typing import Any

import msgpack
from redis import Redis

from broker.agents_client import tag_of
from broker.run_keys import QUEUE_NAME
from shared.bus import keys
from tests.faults.catalogue import case
from tests.faults.processes import AGENTS
from tests.faults.system import System, wait_for
from tests.faults.watched_run import Outcome, WatchedRun
from tests.faults.workplace import Workplace
from tests.fuzz.payloads import hostile_payload
from tests.fuzz.targets import REPLIES, REQUESTS

_PER_STREAM = 10
_INTERVAL_S = 0.5
_CALL_MS = 50.0
"""Short: what is still a message after the damage is answered, and takes its time."""
_QUEUE = f"rq:queue:{QUEUE_NAME}"


@case(
    "hostile-input",
    "damaged, cut off and lying messages on every stream and reply list all through a run, and "
    "jobs that are pickles or ask for another function",
    "no process ends, nothing is unpickled or called; the same bytes, every query recorded once",
)
def hostile_input(workplace: Workplace, name: str) -> Outcome:
    draw = workplace.draw(name)
    called = workplace.root / f"{name}-called"
    called.unlink(missing_ok=True)
    with workplace.system(name, call_ms=_CALL_MS) as system, system.redis() as redis:
        before = _services(system)
        planted = _plant_jobs(redis, called)
        with WatchedRun.submit(system, workplace.task) as run:
            run.reach(0.02)
            sent = 0
            while run.recorded < 0.9 * workplace.task.queries:
                sent += _send(redis, run.id, draw)
                time.sleep(_INTERVAL_S)
            planted += _plant_jobs(redis, called)
            run.end()
            wait_for("all jobs are taken", lambda: not redis.llen(_QUEUE), 60.0)
            parked = sum(
                worker.counts["parked"] for agent in system.client.agents()
                for worker in agent.details
            )  # fmt: skip
            problems = [
                f"the {kind} process did not survive it"
                for kind, pid in _services(system).items()
                if pid != before[kind]
            ]
            if called.exists():
                problems.append("a planted job was called")
            if parked < sent / 4:
                problems.append(f"only {parked} of {sent} messages were parked")
            return run.judge(
                workplace.reference, None, problems=tuple(problems),
                remarks=(
                    f"{sent} messages, {parked} parked (the others are answered, or wait for a "
                    f"newer version as they say); {planted} jobs refused",
                ),
            )  # fmt: skip


def _services(system: System) -> dict[str, int]:
    return {kind: system.pid(kind) for kind in (*AGENTS, "coordinator", "gateway", "redis")}


def _send(redis: Redis, run_id: str, draw: random.Random) -> int:
    """Some hostile messages for everybody who reads; how many for agents."""
    pipeline = redis.pipeline(transaction=False)
    streams = [stream for agent in AGENTS for stream in keys.request_streams(agent)]
    for stream in streams:
        for _ in range(_PER_STREAM):
            pipeline.xadd(stream, {"m": hostile_payload(draw, REQUESTS), "j": "hostile"})
    for _ in range(_PER_STREAM):
        pipeline.rpush(keys.reply(tag_of(run_id, 1)), hostile_payload(draw, REPLIES))
    pipeline.execute()
    return len(streams) * _PER_STREAM


class _Touch:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self._path), "w")


def _plant_jobs(redis: Redis, called: Path) -> int:
    """Jobs that would write the file `called`, and entries that are none; how many."""
    jobs = {
        "hostile-pickle": pickle.dumps(_Touch(called)),
        "hostile-call": msgpack.packb(["os.system", None, [f"touch {called}"], {}]),
        "hostile-noise": b"\xc1" * 50,
    }
    for job_id, data in jobs.items():
        content = {
            "data": zlib.compress(data), "origin": QUEUE_NAME, "status": "queued", "timeout": -1,
            "created_at": "2026-01-01T00:00:00.000000Z", "meta": pickle.dumps(_Touch(called)),
        }  # fmt: skip
        redis.hset(f"rq:job:{job_id}", mapping=content)
    entries = [*jobs, b"\xff\xfe\x00", b"../../etc/passwd", b"a" * 10_000]
    redis.rpush(_QUEUE, *entries)
    return len(entries)
