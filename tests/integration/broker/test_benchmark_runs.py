"""Whole runs: submitted, coordinated in a process of their own, killed, cancelled, resumed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from rq import Worker

from broker.agents_roster import wait_for_agents
from broker.benchmark_run import coordinate
from broker.run_keys import epoch_key, owner_key
from broker.run_lease import LeaseLostError
from broker.run_store import PREDICTIONS, RunRequest, read_states, run_folder
from broker.submission import (
    RunView,
    benchmark_status,
    cancel_benchmark,
    list_benchmarks,
    resume_benchmark,
    submit_benchmark,
)
from shared.bus.client import BusClient
from shared.errors import ConfigurationError, DatasetError, PermanentError
from shared.settings import Settings
from tests.integration.broker.conftest import IMAGES, QUERIES, Coordinator, LiveAgents

REQUEST = RunRequest(
    dataset="folder:pictures", split="all", name="try", knobs={"top_k": 8, "baselines": True}
)
WITHIN_S = 120.0


async def ignore(status: object) -> None:
    """For runs whose progress nobody watches."""


async def until(condition: Callable[[], object], what: str) -> None:
    """Poll, with a deadline, what another process does."""
    deadline = asyncio.get_running_loop().time() + WITHIN_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"{what}: not within {WITHIN_S} s"
        await asyncio.sleep(0.05)


async def ended(process: subprocess.Popen[bytes]) -> int:
    await until(lambda: process.poll() is not None, "the end of the coordinator")
    return process.wait()


def predicted(settings: Settings, run_id: str) -> bytes:
    return (run_folder(settings.runs_folder, run_id) / PREDICTIONS).read_bytes()


@pytest.fixture
def submit(blocking_redis: BlockingRedis, settings: Settings) -> Callable[[], str]:
    return lambda: submit_benchmark(blocking_redis, settings, REQUEST)


@pytest.fixture
def view(blocking_redis: BlockingRedis, settings: Settings) -> Callable[[str], RunView]:
    return lambda run_id: benchmark_status(blocking_redis, settings, run_id)


async def test_a_submitted_benchmark_is_run_to_its_metrics(
    agents: LiveAgents,
    settings: Settings,
    blocking_redis: BlockingRedis,
    submit: Callable[[], str],
    view: Callable[[str], RunView],
    coordinator: Coordinator,
    redis: Redis,
) -> None:
    await until(lambda: blocking_redis.scard("xr:agents") == 3, "the agents' heartbeats")
    run_id = submit()
    assert run_id.startswith("folder-pictures_all~fake-clip-try_")
    assert view(run_id).state == "queued"

    assert await ended(coordinator("--burst")) == 0

    shown = view(run_id)
    assert shown.state == "finished", shown
    assert shown.phase == "done"
    assert shown.counts["queries"] == QUERIES
    assert shown.counts["failed"] == 1
    assert {"image_only", "text_only", "image_text_sum", "v1.hybrid", "coarse", "verified"} <= set(
        shown.metrics
    )
    assert shown.metrics["coarse"]["recall@50"] == pytest.approx((QUERIES - 1) / QUERIES)
    images = next(phase for phase in shown.progress if phase["phase"] == "image_database")
    assert (images["done"], images["total"], images["failed"]) == (IMAGES, IMAGES, 1)
    folder = Path(shown.run_folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["agents"]["imagination"]["prompt.caption"] == "c1"
    assert manifest["gallery"]["failed_images"] == 1
    assert "XR: verified" in (folder / "metrics.txt").read_text()
    assert "12.png" in (folder / "log.txt").read_text(), "the broken image is named"
    hash_ = await redis.hgetall(f"xr:run:{run_id}")
    assert hash_[b"state"] == b"finished"
    assert [one.id for one in list_benchmarks(blocking_redis, settings)] == [run_id]


async def test_the_image_database_is_built_once_for_all_runs(
    agents: LiveAgents, settings: Settings, submit: Callable[[], str], redis: Redis
) -> None:
    await coordinate(submit(), settings, redis, ignore)
    assert any("/index/" in message_id for message_id in agents.asked)
    agents.asked.clear()
    await coordinate(submit(), settings, redis, ignore)
    assert not any("/index/" in message_id for message_id in agents.asked)


async def test_a_killed_coordinator_loses_no_query_and_repeats_none(
    agents: LiveAgents,
    settings: Settings,
    blocking_redis: BlockingRedis,
    submit: Callable[[], str],
    view: Callable[[str], RunView],
    coordinator: Coordinator,
    redis: Redis,
) -> None:
    # Given what an undisturbed run predicts
    undisturbed = submit()
    await coordinate(undisturbed, settings, redis, ignore)
    await asyncio.to_thread(blocking_redis.delete, "rq:queue:bench")
    agents.asked.clear()

    # When the process that coordinates is killed in the middle of a run
    agents.gate.clear()
    agents.free = 4
    run_id = submit()
    coordinator("--burst")
    await asyncio.wait_for(agents.waiting_at_the_gate.wait(), WITHIN_S)
    await until(lambda: read_states(settings.runs_folder, run_id), "a recorded query")
    finished_before = set(read_states(settings.runs_folder, run_id))
    os.kill(await _coordinating_process(blocking_redis), signal.SIGKILL)
    await redis.delete(owner_key(run_id))  # its lease would end a few seconds later
    agents.gate.set()

    # Then another one ends the run with the same predictions
    await until(lambda: view(run_id).state == "finished", "the end of the run")
    assert predicted(settings, run_id) == predicted(settings, undisturbed)
    again = {
        message_id.split("/")[2] for message_id in agents.asked if f"{run_id}/2/" in message_id
    }
    assert again, "the second owner asked for what was missing"
    assert not again & finished_before
    assert int(await redis.get(epoch_key(run_id)) or 0) == 2


async def test_a_coordinator_whose_worker_process_died_hands_its_run_back(
    agents: LiveAgents,
    blocking_redis: BlockingRedis,
    submit: Callable[[], str],
    view: Callable[[str], RunView],
    coordinator: Coordinator,
) -> None:
    agents.gate.clear()
    run_id = submit()
    dying = coordinator()
    await asyncio.wait_for(agents.waiting_at_the_gate.wait(), WITHIN_S)
    os.kill(dying.pid, signal.SIGKILL)
    await ended(dying)
    await until(lambda: blocking_redis.llen("rq:queue:bench") == 1, "the job in the queue")
    assert view(run_id).state == "queued"


@pytest.mark.slow
async def test_a_machine_that_dies_with_its_coordinator_is_missed_within_seconds(
    agents: LiveAgents,
    blocking_redis: BlockingRedis,
    submit: Callable[[], str],
    view: Callable[[str], RunView],
    coordinator: Coordinator,
) -> None:
    agents.gate.clear()
    run_id = submit()
    dying = coordinator()
    await asyncio.wait_for(agents.waiting_at_the_gate.wait(), WITHIN_S)
    horse = await _coordinating_process(blocking_redis)
    os.kill(dying.pid, signal.SIGKILL)
    os.kill(horse, signal.SIGKILL)
    agents.gate.set()

    coordinator()  # another machine's; nobody tells it

    await until(lambda: view(run_id).state == "finished", "the end of the run")


def asked_by(agents: LiveAgents, run_id: str, owner: int) -> set[str]:
    """The queries some owner of the run asked about."""
    prefix = f"{run_id}/{owner}/"
    asked = [message_id for message_id in agents.asked if message_id.startswith(prefix)]
    return {message_id.split("/")[2] for message_id in asked} - {"index"}


async def _coordinating_process(blocking_redis: BlockingRedis) -> int:
    """The forked process that executes the job: the only child of the worker's process."""
    (worker,) = await asyncio.to_thread(Worker.all, connection=blocking_redis)
    listing = f"/proc/{worker.pid}/task/{worker.pid}/children"
    children = (await asyncio.to_thread(Path(listing).read_text)).split()
    assert len(children) == 1
    return int(children[0])


async def test_a_stopped_coordinator_hands_its_run_back_and_the_next_one_goes_on(
    agents: LiveAgents,
    submit: Callable[[], str],
    view: Callable[[str], RunView],
    coordinator: Coordinator,
) -> None:
    agents.gate.clear()
    run_id = submit()
    process = coordinator()
    await asyncio.wait_for(agents.waiting_at_the_gate.wait(), WITHIN_S)
    process.terminate()
    assert await ended(process) == 0
    assert view(run_id).state == "queued"

    agents.gate.set()
    assert await ended(coordinator("--burst")) == 0
    assert view(run_id).state == "finished"


async def test_a_cancelled_run_stops_soon_keeps_what_it_has_and_can_be_resumed(
    agents: LiveAgents,
    settings: Settings,
    blocking_redis: BlockingRedis,
    submit: Callable[[], str],
    view: Callable[[str], RunView],
    redis: Redis,
) -> None:
    agents.gate.clear()
    agents.free = 4
    run_id = submit()
    running = asyncio.create_task(coordinate(run_id, settings, redis, ignore))
    await asyncio.wait_for(agents.waiting_at_the_gate.wait(), WITHIN_S)
    await until(lambda: read_states(settings.runs_folder, run_id), "a recorded query")

    await asyncio.to_thread(cancel_benchmark, blocking_redis, settings, run_id)
    status = await asyncio.wait_for(running, WITHIN_S)
    assert status["state"] == "cancelled"
    assert view(run_id).state == "cancelled"
    kept = set(read_states(settings.runs_folder, run_id))
    assert kept

    agents.gate.set()
    agents.asked.clear()
    assert resume_benchmark(blocking_redis, settings, run_id).state == "queued"
    assert (await coordinate(run_id, settings, redis, ignore))["state"] == "finished"
    assert not asked_by(agents, run_id, owner=2) & kept
    with pytest.raises(PermanentError, match="is finished"):
        resume_benchmark(blocking_redis, settings, run_id)


async def test_a_queued_run_can_be_cancelled_before_anybody_works_on_it(
    settings: Settings,
    blocking_redis: BlockingRedis,
    submit: Callable[[], str],
    coordinator: Coordinator,
    view: Callable[[str], RunView],
) -> None:
    run_id = submit()
    assert cancel_benchmark(blocking_redis, settings, run_id).state == "cancelled"
    assert await ended(coordinator("--burst")) == 0
    assert view(run_id).state == "cancelled"


async def test_of_two_owners_one_works_and_the_copy_waits(
    agents: LiveAgents, settings: Settings, submit: Callable[[], str], redis: Redis
) -> None:
    agents.gate.clear()
    run_id = submit()
    first = asyncio.create_task(coordinate(run_id, settings, redis, ignore))
    await asyncio.wait_for(agents.waiting_at_the_gate.wait(), WITHIN_S)
    copy = asyncio.create_task(coordinate(run_id, settings, redis, ignore))
    await asyncio.sleep(0)
    agents.gate.set()
    statuses = await asyncio.gather(first, copy)
    assert [status["state"] for status in statuses] == ["finished", "finished"]
    messages = [message_id for message_id in agents.asked if "/propose/" in message_id]
    assert len(messages) == len(set(messages)), "nothing was asked twice"
    assert {message_id.split("/")[1] for message_id in messages} == {"1"}


async def test_an_owner_frozen_past_its_lease_gives_way_without_a_word(
    agents: LiveAgents,
    settings: Settings,
    submit: Callable[[], str],
    view: Callable[[str], RunView],
    redis: Redis,
) -> None:
    agents.gate.clear()
    run_id = submit()
    frozen = asyncio.create_task(coordinate(run_id, settings, redis, ignore, lease_s=0.4))
    await asyncio.wait_for(agents.waiting_at_the_gate.wait(), WITHIN_S)
    await redis.set(owner_key(run_id), "somebody else")
    with pytest.raises(LeaseLostError):
        await frozen
    assert await redis.get(owner_key(run_id)) == b"somebody else"
    assert view(run_id).state == "running"


async def test_workers_with_different_models_are_refused_by_name(
    agents: LiveAgents, blocking_redis: BlockingRedis, redis: Redis
) -> None:
    agents.start("similarity", {"checkpoint": "another"})
    await until(lambda: blocking_redis.scard("xr:agents") == 4, "the heartbeats")
    bus = BusClient(redis, "xr:reply:test")
    with pytest.raises(PermanentError, match=r"similarity agent serve different models.*another"):
        await wait_for_agents(
            bus.live_agents, ("similarity",), lambda note: None, mixture_patience_s=0.0, poll_s=0.01
        )


async def test_a_run_says_which_agent_it_waits_for(
    settings: Settings,
    submit: Callable[[], str],
    view: Callable[[str], RunView],
    redis: Redis,
) -> None:
    run_id = submit()
    waiting = asyncio.create_task(coordinate(run_id, settings, redis, ignore))
    await until(lambda: "similarity agent" in view(run_id).note, "the note")
    assert view(run_id).phase == "agents"
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (RunRequest(dataset="cirrus", split="val"), DatasetError, "unknown data set 'cirrus'"),
        (RunRequest(dataset="folder:../..", split="val"), DatasetError, "outside the data root"),
        (RunRequest(dataset="folder:none", split="val"), DatasetError, "not a folder"),
        (
            RunRequest(dataset="folder:pictures", split="all", knobs={"topk": 3}),
            ConfigurationError,
            "no knob 'topk'",
        ),
        (
            RunRequest(dataset="folder:pictures", split="all", name="a/b"),
            ConfigurationError,
            "name is",
        ),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_queued(
    request_: RunRequest,
    error: type[Exception],
    message: str,
    settings: Settings,
    blocking_redis: BlockingRedis,
) -> None:
    with pytest.raises(error, match=message):
        submit_benchmark(blocking_redis, settings, request_)
    assert blocking_redis.llen("rq:queue:bench") == 0


def test_submitting_twice_with_one_key_is_submitting_once(
    settings: Settings, blocking_redis: BlockingRedis
) -> None:
    first = submit_benchmark(blocking_redis, settings, REQUEST, idempotency_key="k")
    assert submit_benchmark(blocking_redis, settings, REQUEST, idempotency_key="k") == first
    assert submit_benchmark(blocking_redis, settings, REQUEST) != first
    assert blocking_redis.llen("rq:queue:bench") == 2


def test_a_run_whose_job_redis_has_lost_is_shown_as_failed_and_can_be_resumed(
    settings: Settings, blocking_redis: BlockingRedis
) -> None:
    run_id = submit_benchmark(blocking_redis, settings, REQUEST)
    blocking_redis.flushall()
    lost = benchmark_status(blocking_redis, settings, run_id)
    assert (lost.state, "resume" in lost.error) == ("failed", True)
    assert resume_benchmark(blocking_redis, settings, run_id).state == "queued"
