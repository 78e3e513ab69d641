"""Deaths, outages and full disks of coordinators: the run goes on by itself, each query once."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest
from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from rq import Worker

from broker import query_state
from broker.benchmark_run import coordinate
from broker.recorded_states import decode_record
from broker.rq_worker import BenchmarkWorker, benchmark_queue
from broker.run_keys import owner_key
from broker.run_lease import RunLease
from broker.run_store import (
    PARTIAL,
    PREDICTIONS,
    STATES,
    read_states,
    run_folder,
)
from broker.state_log import StateLog, read_frames
from broker.submission import (
    RunView,
    benchmark_status,
    cancel_benchmark,
    coordinators_now,
    job_id_of,
    resume_benchmark,
    submit_benchmark,
)
from shared.settings import Settings
from tests.integration.broker.conftest import QUERIES, Coordinator, LiveAgents
from tests.integration.broker.test_benchmark_runs import (
    REQUEST,
    WITHIN_S,
    _coordinating_process,
    ended,
    ignore,
    predicted,
    until,
)

RECOVERED_WITHIN_S = 30.0


@pytest.fixture
def view(blocking_redis: BlockingRedis, settings: Settings) -> Callable[[str], RunView]:
    return lambda run_id: benchmark_status(blocking_redis, settings, run_id)


@pytest.fixture
async def undisturbed(
    agents: LiveAgents, settings: Settings, blocking_redis: BlockingRedis, redis: Redis
) -> bytes:
    """What a run without any mishap predicts; its image database is there afterwards."""
    run_id = submit_benchmark(blocking_redis, settings, REQUEST)
    await coordinate(run_id, settings, redis, ignore)
    await asyncio.to_thread(blocking_redis.delete, "rq:queue:bench")
    agents.asked.clear()
    return predicted(settings, run_id)


def recorded(settings: Settings, run_id: str) -> list[str]:
    """The query ids of the run's log, one per record."""
    path = run_folder(settings.runs_folder, run_id) / STATES
    payloads, whole = read_frames(path.read_bytes(), path)
    assert whole == path.stat().st_size, "nothing torn"
    return [decode_record(payload, path, n).query_id for n, payload in enumerate(payloads)]


async def in_the_middle(agents: LiveAgents, settings: Settings, run_id: str) -> None:
    """Return when some queries are recorded and one stands at the gate."""
    await asyncio.wait_for(agents.waiting_at_the_gate.wait(), WITHIN_S)
    await until(lambda: read_states(settings.runs_folder, run_id), "a recorded query")


async def recovers(
    view: Callable[[str], RunView], run_id: str, within_s: float = RECOVERED_WITHIN_S
) -> float:
    """Seconds until the run has finished by itself."""
    began = time.monotonic()
    await until(lambda: view(run_id).state == "finished", "the end of the run")
    took_s = time.monotonic() - began
    assert took_s < within_s
    return took_s


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["horse", "worker", "both"])
async def test_a_run_goes_on_within_seconds_whoever_of_its_coordinator_is_killed(
    victim: str,
    agents: LiveAgents,
    undisturbed: bytes,
    settings: Settings,
    blocking_redis: BlockingRedis,
    view: Callable[[str], RunView],
    coordinator: Coordinator,
) -> None:
    # Given a run under way, and a second coordinator that has nothing to do
    agents.gate.clear()
    agents.free = 4
    run_id = submit_benchmark(blocking_redis, settings, REQUEST)
    dying = coordinator()
    await in_the_middle(agents, settings, run_id)
    horse = await _coordinating_process(blocking_redis)
    coordinator()
    await until(lambda: len(Worker.all(connection=blocking_redis)) == 2, "the other one")

    # When it is killed
    if victim in ("worker", "both"):
        os.kill(dying.pid, signal.SIGKILL)
        await ended(dying)
    if victim in ("horse", "both"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(horse, signal.SIGKILL)
    agents.gate.set()

    # Then the run ends as though nothing had been, every query recorded once
    await recovers(view, run_id)
    assert predicted(settings, run_id) == undisturbed
    assert sorted(recorded(settings, run_id)) == sorted(f"q{n}" for n in range(QUERIES))


async def test_a_worker_that_dies_between_taking_a_job_and_starting_it_leaves_it_to_the_next(
    agents: LiveAgents,
    settings: Settings,
    blocking_redis: BlockingRedis,
    view: Callable[[str], RunView],
    coordinator: Coordinator,
) -> None:
    run_id = submit_benchmark(blocking_redis, settings, REQUEST)
    queue = benchmark_queue(blocking_redis)
    blocking_redis.lmove(queue.key, queue.intermediate_queue.key)
    # and one that died while it held RQ's lock of 15 minutes
    assert queue.acquire_maintenance_lock()
    assert 0 < blocking_redis.ttl(queue.registry_cleaning_key) <= 10
    blocking_redis.pexpire(queue.registry_cleaning_key, 1)

    coordinator()

    await recovers(view, run_id)


async def test_a_clock_that_was_set_back_delays_no_job_by_an_hour(
    settings: Settings, blocking_redis: BlockingRedis
) -> None:
    queue = benchmark_queue(blocking_redis)
    worker = BenchmarkWorker(blocking_redis, "w")
    keys = queue.scheduled_job_registry.key, queue.started_job_registry.key
    for key in keys:
        blocking_redis.zadd(key, {"a-job:an-execution": time.time() + 3600})
        blocking_redis.zadd(key, {"b-job:an-execution": time.time() + 5})
    for registry in (queue.scheduled_job_registry, queue.started_job_registry):
        worker._bring_nearer(registry, 12)
    for key in keys:
        assert blocking_redis.zscore(key, "a-job:an-execution") - time.time() <= 12
        assert 4 < blocking_redis.zscore(key, "b-job:an-execution") - time.time() <= 5


@pytest.mark.slow
async def test_a_run_that_fails_at_its_start_again_and_again_is_tried_with_growing_pauses(
    agents: LiveAgents,
    settings: Settings,
    blocking_redis: BlockingRedis,
    coordinator: Coordinator,
    view: Callable[[str], RunView],
) -> None:
    # Given a run whose job cannot begin: what it imports is broken, for now
    run_id = submit_benchmark(blocking_redis, settings, REQUEST)
    broken = settings.home.parent / "broken"
    broken.mkdir()
    tries = broken / "tries"
    (broken / "sitecustomize.py").write_text(
        "import sys\n"
        "class Broken:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'broker.benchmark_job':\n"
        f"            open({str(tries)!r}, 'a').write('x')\n"
        "            raise ImportError('a library is missing')\n"
        "sys.meta_path.insert(0, Broken())\n"
    )
    process = coordinator(PYTHONPATH=f"{broken}:{Path.cwd()}")

    # Then it is tried at once, after 1 s, after 3 s, and does not occupy the coordinator meanwhile
    await until(lambda: tries.exists() and len(tries.read_text()) >= 3, "three tries")
    began = time.monotonic()
    await until(lambda: coordinators_now(blocking_redis).delayed == 1, "the job to be put by")
    assert view(run_id).state == "queued"
    await until(lambda: len(tries.read_text()) >= 4, "the fourth try")
    assert time.monotonic() - began > 1.5
    process.terminate()
    assert await ended(process) == 0

    # and when the cause is gone, it goes on
    coordinator()
    await recovers(view, run_id, within_s=60.0)


@pytest.mark.slow
async def test_a_stopped_coordinator_gives_its_run_to_another_at_once(
    agents: LiveAgents,
    undisturbed: bytes,
    settings: Settings,
    blocking_redis: BlockingRedis,
    view: Callable[[str], RunView],
    coordinator: Coordinator,
) -> None:
    agents.gate.clear()
    agents.free = 4
    run_id = submit_benchmark(blocking_redis, settings, REQUEST)
    stopping = coordinator()
    await in_the_middle(agents, settings, run_id)
    coordinator()
    await until(lambda: len(Worker.all(connection=blocking_redis)) == 2, "the other one")
    began = time.monotonic()
    stopping.terminate()
    assert await ended(stopping) == 0
    assert time.monotonic() - began < 5.0
    agents.gate.set()
    await recovers(view, run_id, within_s=10.0)
    assert predicted(settings, run_id) == undisturbed


@pytest.mark.slow
async def test_a_run_survives_that_redis_is_emptied_under_it(
    agents: LiveAgents,
    undisturbed: bytes,
    settings: Settings,
    blocking_redis: BlockingRedis,
    view: Callable[[str], RunView],
    coordinator: Coordinator,
) -> None:
    # Given a run in the middle, and whoever watches it
    agents.gate.clear()
    agents.free = 4
    run_id = submit_benchmark(blocking_redis, settings, REQUEST)
    process = coordinator()
    await in_the_middle(agents, settings, run_id)
    horse = await _coordinating_process_of(process)

    # When Redis loses everything, the run's job too
    blocking_redis.flushall()
    agents.gate.set()

    # Then nobody takes the run for dead, and it goes on
    seen = set()
    deadline = time.monotonic() + 6.0
    while time.monotonic() < deadline:
        seen.add(view(run_id).state)
        await asyncio.sleep(0.1)
    assert seen <= {"running", "finished"}
    assert view(run_id).state == "running", "requests that were lost are asked for again later"
    assert horse == await _coordinating_process_of(process)

    # When its coordinator dies too, nobody is left who knows; `resume` goes on
    os.kill(process.pid, signal.SIGKILL)
    os.kill(horse, signal.SIGKILL)
    await ended(process)
    await until(lambda: view(run_id).state == "failed", "the run to be missed")
    assert f"xr runs resume {run_id}" in view(run_id).error
    before = recorded(settings, run_id)
    assert resume_benchmark(blocking_redis, settings, run_id).state == "queued"
    coordinator()
    await recovers(view, run_id)
    assert predicted(settings, run_id) == undisturbed
    assert recorded(settings, run_id)[: len(before)] == before
    assert len(recorded(settings, run_id)) == QUERIES


async def test_a_coordinator_is_listed_again_after_redis_was_emptied_and_not_long_after_its_death(
    blocking_redis: BlockingRedis, coordinator: Coordinator
) -> None:
    process = coordinator()
    await until(lambda: coordinators_now(blocking_redis).coordinators, "the coordinator")
    blocking_redis.flushdb()
    assert coordinators_now(blocking_redis).coordinators == []
    await until(lambda: coordinators_now(blocking_redis).coordinators, "the coordinator again")
    (one,) = coordinators_now(blocking_redis).coordinators
    assert one.state == "idle"
    process.kill()
    await ended(process)
    (entry,) = Worker.all(connection=blocking_redis)
    assert 0 < blocking_redis.ttl(entry.key) <= 20


async def test_the_number_of_an_owner_is_never_given_twice_though_redis_is_emptied(
    settings: Settings, redis: Redis
) -> None:
    async def never_over() -> bool:
        return False

    first = RunLease(redis, "a~b")
    assert await first.acquire(never_over) == 1
    await first.release()
    await redis.flushall()
    second = RunLease(redis, "a~b")
    assert await second.acquire(never_over, last_epoch=lambda: 1) == 2
    await second.release()
    assert await RunLease(redis, "a~b").acquire(never_over, last_epoch=lambda: 1) == 3


@pytest.mark.slow
@pytest.mark.parametrize("limit_bytes", [3_000, 7_000, 11_000])
async def test_a_disk_that_takes_no_more_fails_the_run_in_clear_words_and_resume_goes_on(
    limit_bytes: int,
    agents: LiveAgents,
    undisturbed: bytes,
    settings: Settings,
    blocking_redis: BlockingRedis,
    view: Callable[[str], RunView],
    coordinator: Coordinator,
) -> None:
    # Given a coordinator whose files may have so many bytes and no more
    run_id = submit_benchmark(blocking_redis, settings, REQUEST)
    process = coordinator("--burst", file_limit_bytes=limit_bytes)
    assert await ended(process) == 0
    told = view(run_id)
    assert told.state == "failed"
    folder = run_folder(settings.runs_folder, run_id)
    assert str(settings.home) in told.error
    assert f"xr runs resume {run_id}" in told.error
    assert not (folder / PREDICTIONS).exists()
    before = recorded_whole(folder)

    # When there is room again
    assert resume_benchmark(blocking_redis, settings, run_id).state == "queued"
    assert await ended(coordinator("--burst")) == 0

    # Then the run is what it would have been
    assert view(run_id).state == "finished", view(run_id).error
    assert predicted(settings, run_id) == undisturbed
    assert recorded(settings, run_id)[: len(before)] == before
    assert len(recorded(settings, run_id)) == QUERIES


async def _coordinating_process_of(process: subprocess.Popen[bytes]) -> int:
    listing = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    (child,) = (await asyncio.to_thread(listing.read_text)).split()
    return int(child)


def recorded_whole(folder: Path) -> list[str]:
    """The query ids of the whole records of a log that may have a torn one at its end."""
    path = folder / STATES
    payloads, _ = read_frames(path.read_bytes(), path)
    return [decode_record(payload, path, n).query_id for n, payload in enumerate(payloads)]


async def test_a_full_disk_tears_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a disk that is full in the middle of the second record
    log = StateLog(tmp_path / STATES)
    await log.append(b"first" * 100)
    real = os.write

    def full(descriptor: int, content: bytes) -> int:
        if len(content) <= 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, content[:10])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        await log.append(b"second")
    monkeypatch.undo()
    # Then nothing is written behind the torn end
    with pytest.raises(OSError, match="No space left"):
        await log.append(b"third")
    await log.close()
    again = StateLog(tmp_path / STATES)
    assert [again.read(place) for place in again.places] == [b"first" * 100]
    await again.append(b"second")
    await again.close()
    assert len(read_frames((tmp_path / STATES).read_bytes(), tmp_path)[0]) == 2


async def test_states_of_a_newer_version_fail_the_run_once_and_leave_it_whole(
    agents: LiveAgents,
    settings: Settings,
    blocking_redis: BlockingRedis,
    coordinator: Coordinator,
    view: Callable[[str], RunView],
) -> None:
    # Given a run that a newer version of the program began
    run_id = submit_benchmark(blocking_redis, settings, REQUEST)
    folder = run_folder(settings.runs_folder, run_id)
    newer = query_state.STATE_VERSION + 1
    log = StateLog(folder / STATES)
    await log.append(msgpack.packb({"version": newer, "query_id": "q0", "mood": "good"}))
    await log.close()
    before = (folder / STATES).read_bytes()

    # When this one takes it up
    assert await ended(coordinator("--burst")) == 0

    # Then it says so, once
    told = view(run_id)
    assert told.state == "failed"
    assert f"state version {newer}" in told.error
    assert "version of this program that began the run" in told.error
    assert (folder / STATES).read_bytes() == before
    assert benchmark_queue(blocking_redis).count == 0
    assert coordinators_now(blocking_redis).delayed == 0


async def test_a_cancelled_run_says_so_within_two_seconds_and_has_its_partial_results(
    agents: LiveAgents,
    settings: Settings,
    blocking_redis: BlockingRedis,
    view: Callable[[str], RunView],
    coordinator: Coordinator,
) -> None:
    agents.gate.clear()
    agents.free = 4
    run_id = submit_benchmark(blocking_redis, settings, REQUEST)
    coordinator()
    await in_the_middle(agents, settings, run_id)
    began = time.monotonic()
    cancel_benchmark(blocking_redis, settings, run_id)
    await until(lambda: view(run_id).state == "cancelled", "the run to say so")
    assert time.monotonic() - began < 2.0
    folder = run_folder(settings.runs_folder, run_id)
    await until((folder / f"{PARTIAL}metrics.json").exists, "the partial results")
    states = read_states(settings.runs_folder, run_id)
    lines = (folder / f"{PARTIAL}{PREDICTIONS}").read_text().splitlines()
    assert {json.loads(line)["query_id"] for line in lines} == set(states)
    assert not (folder / PREDICTIONS).exists()
    assert (
        f"cancelled after {len(states)} of {QUERIES}"
        in (folder / f"{PARTIAL}metrics.txt").read_text()
    )
    assert view(run_id).metrics["coarse"]

    # and the whole results replace them
    agents.gate.set()
    await until(lambda: not blocking_redis.exists(owner_key(run_id)), "the lease to be given back")
    resume_benchmark(blocking_redis, settings, run_id)
    await until(lambda: view(run_id).state == "finished", "the end of the run")
    assert not list(folder.glob(f"{PARTIAL}*"))


def test_one_key_submitted_many_times_at_once_is_one_run(
    settings: Settings, blocking_redis: BlockingRedis
) -> None:
    begin = threading.Barrier(8)
    ids: list[str] = []

    def submit() -> None:
        begin.wait()
        ids.append(submit_benchmark(blocking_redis, settings, REQUEST, idempotency_key="k"))

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 8
    assert len(set(ids)) == 1
    assert benchmark_queue(blocking_redis).job_ids == [job_id_of(ids[0])]
    assert len(list(settings.runs_folder.glob("*/*/request.json"))) == 1


def test_a_submission_that_was_killed_before_it_queued_its_job_is_queued_by_the_next_try(
    settings: Settings, blocking_redis: BlockingRedis
) -> None:
    run_id = submit_benchmark(blocking_redis, settings, REQUEST, idempotency_key="k")
    blocking_redis.delete("rq:queue:bench", f"rq:job:{job_id_of(run_id)}")
    assert submit_benchmark(blocking_redis, settings, REQUEST, idempotency_key="k") == run_id
    assert benchmark_queue(blocking_redis).job_ids == [job_id_of(run_id)]
