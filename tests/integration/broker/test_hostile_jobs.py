"""Whatever lies in RQ's keys: nothing is unpickled or called, and the worker goes on working."""

from __future__ import annotations

import json
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
import rq.serializers
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis as BlockingRedis
from rq import Queue
from rq.exceptions import DeserializationError, NoSuchJobError
from rq.job import Job
from rq.results import Result

from broker.rq_job import FUNCTION, MAX_FIELD_BYTES, BenchmarkJob
from broker.rq_worker import BenchmarkWorker, benchmark_queue
from broker.run_keys import QUEUE_NAME
from broker.serializer import MsgpackSerializer
from broker.submission import benchmark_status, job_id_of, list_benchmarks, submit_benchmark
from shared.errors import DecodeError
from shared.settings import Settings
from tests.integration.broker.conftest import Coordinator, LiveAgents
from tests.integration.broker.test_benchmark_runs import REQUEST, until

QUEUE = f"rq:queue:{QUEUE_NAME}"


class Touch:
    """Unpickled, it writes a file: the proof that somebody has unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def call_of(function: str, *arguments: object) -> bytes:
    return msgpack.packb([function, None, list(arguments), {}])


def fields(data: bytes, **others: bytes | str | int) -> dict[str, Any]:
    """A job's hash as RQ writes it."""
    return {
        "data": zlib.compress(data),
        "origin": QUEUE_NAME,
        "status": "queued",
        "created_at": "2026-01-01T00:00:00.000000Z",
        "timeout": -1,
        **others,
    }


def plant(redis: BlockingRedis, job_id: str, content: dict[str, Any]) -> None:
    redis.hset(f"rq:job:{job_id}", mapping=content)
    redis.rpush(QUEUE, job_id)


@pytest.fixture
def hostile(blocking_redis: BlockingRedis, tmp_path: Path) -> Callable[[], list[Path]]:
    """Plants jobs of every hostile kind; the function returned tells what they have done."""
    redis = blocking_redis
    proofs: list[Path] = []

    def proof(name: str) -> Path:
        proofs.append(tmp_path / f"called-{name}")
        return proofs[-1]

    def poison(name: str) -> bytes:
        return pickle.dumps(Touch(proof(name)))

    ours = call_of(FUNCTION, "no~run")
    plant(redis, "pickle-data", fields(poison("data"), retries_left=5))
    plant(redis, "pickle-raw", fields(ours) | {"data": poison("raw")})
    for field in ("meta", "result", "exc_info", "description", "retry_intervals", "worker_name"):
        plant(redis, f"pickle-{field.replace('_', '-')}", fields(ours, **{field: poison(field)}))
    plant(redis, "pickle-inside", fields(msgpack.packb([poison("inside"), None, [], {}])))
    plant(redis, "system", fields(call_of("os.system", f"touch {proof('system')}")))
    plant(redis, "exec", fields(call_of("builtins.exec", f"open('{proof('exec')}', 'w')")))
    plant(redis, "method", fields(msgpack.packb(["touch", {"a": 1}, [], {}])))
    for kind in ("success", "failure", "stopped"):
        callback = {f"{kind}_callback_name": "os.system", f"{kind}_callback_timeout": 5}
        plant(redis, f"callback-{kind}", fields(ours, **callback))
    plant(redis, "depends", fields(ours, dependency_ids=json.dumps(["system"])))
    plant(redis, "hooked", fields(ours, webhooks=json.dumps([{"url": "http://127.0.0.1:9/"}])))
    plant(redis, "bomb", fields(b"\0" * (MAX_FIELD_BYTES + 1)))
    plant(redis, "bad-status", fields(ours, status="dancing"))
    plant(redis, "bad-time", fields(ours, created_at=b"\xff\xfe", timeout="soon"))
    plant(redis, "list-as-meta", fields(ours, meta=msgpack.packb([1, 2])))
    plant(redis, "words-as-meta", fields(ours, meta=msgpack.packb({"early_deaths": "many"})))
    plant(redis, "no-data", {"status": "queued"})
    redis.set("rq:job:a-string", "no hash")
    junk = [b"a-string", b"\xff\xfe\x00", b"../../etc/passwd", b"", b"a" * 10_000, b"absent:1:2"]
    redis.rpush(QUEUE, *junk)
    redis.rpush(f"{QUEUE}:intermediate", *junk)
    for registry in ("rq:wip", "rq:scheduled", "rq:failed", "rq:canceled"):
        redis.zadd(f"{registry}:{QUEUE_NAME}", dict.fromkeys(junk, 1))
    redis.set(f"rq:finished:{QUEUE_NAME}", "no sorted set")
    return lambda: [path for path in proofs if path.exists()]


async def test_a_worker_calls_nothing_that_is_planted_and_runs_what_is_submitted(
    hostile: Callable[[], list[Path]],
    agents: LiveAgents,
    settings: Settings,
    blocking_redis: BlockingRedis,
    coordinator: Coordinator,
    tmp_path: Path,
) -> None:
    # Given hostile jobs before a good one
    await until(lambda: blocking_redis.scard("xr:agents") == 3, "the agents' heartbeats")
    run_id = submit_benchmark(blocking_redis, settings, REQUEST)

    # When one worker takes them all
    worker = coordinator()
    await until(
        lambda: benchmark_status(blocking_redis, settings, run_id).state == "finished",
        "the end of the good run",
    )

    # Then nothing was called, the worker lives, and the refused say why
    assert hostile() == []
    assert worker.poll() is None
    log = (tmp_path / "coordinator.log").read_text()
    assert "unhandled exception" not in log
    assert blocking_redis.llen(QUEUE) == 0
    for job_id, reason in (
        ("pickle-data", "its data cannot be read"),
        ("pickle-raw", "its data cannot be read"),
        ("system", "it asks for 'os.system'; only"),
        ("exec", "it asks for 'builtins.exec'; only"),
        ("method", "it asks for 'touch'; only"),
    ):
        job = BenchmarkJob.fetch(job_id, blocking_redis, MsgpackSerializer)
        assert job.get_status() == "failed", job_id
        result = job.latest_result()
        assert result is not None
        assert reason in result.exc_string
    for job_id in ("bomb", "bad-status", "bad-time", "a-string"):
        assert f"job '{job_id}' is malformed" in log


def test_the_gateway_reads_no_planted_job(
    hostile: Callable[[], list[Path]], blocking_redis: BlockingRedis, settings: Settings
) -> None:
    run_id = submit_benchmark(blocking_redis, settings, REQUEST)
    for planted in ("pickle-data", "pickle-meta", "pickle-result", "bad-status"):
        content = blocking_redis.hgetall(f"rq:job:{planted}")
        blocking_redis.delete(f"rq:job:{job_id_of(run_id)}")
        blocking_redis.hset(f"rq:job:{job_id_of(run_id)}", mapping=content)
        assert benchmark_status(blocking_redis, settings, run_id).state in ("queued", "failed")
    assert [view.id for view in list_benchmarks(blocking_redis, settings)] == [run_id]
    assert hostile() == []


def test_rq_without_a_serializer_does_not_unpickle_either(
    hostile: Callable[[], list[Path]], blocking_redis: BlockingRedis, tmp_path: Path
) -> None:
    """RQ's own tools, its scheduler and some of its corners pass none."""
    assert rq.serializers.resolve_serializer(None) is MsgpackSerializer
    assert rq.serializers.resolve_serializer("pickle") is MsgpackSerializer
    planted = Job.fetch("pickle-data", connection=blocking_redis)
    with pytest.raises(DeserializationError):
        _ = planted.func_name
    for job_id in ("pickle-meta", "pickle-result"):
        Job.fetch(job_id, connection=blocking_redis).refresh()
    queue = Queue(QUEUE_NAME, connection=blocking_redis)
    queue.fetch_job("pickle-data")
    blocking_redis.xadd(
        "rq:results:pickle-data",
        {"type": 1, "return_value": pickle.dumps(Touch(tmp_path / "called-result")).hex()},
    )
    with pytest.raises(Exception, match=r".*"):
        Result.all(planted)[0].return_value.upper()
    assert hostile() == []
    assert not (tmp_path / "called-result").exists()


def test_maintenance_throws_junk_out_and_keeps_what_is_good(
    hostile: Callable[[], list[Path]], blocking_redis: BlockingRedis
) -> None:
    queue = benchmark_queue(blocking_redis)
    good = queue.enqueue(FUNCTION, "a~run", job_id="good")
    BenchmarkWorker(blocking_redis, "test").run_maintenance_tasks()
    assert good.id in queue.get_job_ids()
    assert all(len(job_id) < 100 for job_id in queue.get_job_ids())
    assert queue.started_job_registry.get_job_ids() == []
    assert queue.finished_job_registry.get_job_ids() == []
    assert hostile() == []


def test_a_job_that_is_none_is_no_such_job(
    hostile: Callable[[], list[Path]], blocking_redis: BlockingRedis
) -> None:
    for job_id in ("bomb", "bad-status", "bad-time", "a-string", "no-data", "../x", "a b"):
        with pytest.raises(NoSuchJobError):
            BenchmarkJob.fetch(job_id, blocking_redis, MsgpackSerializer)


@given(st.binary(max_size=300))
def test_any_bytes_are_plain_values_or_a_decode_error(payload: bytes) -> None:
    try:
        value = MsgpackSerializer.loads(payload)
    except DecodeError as error:
        assert error.payload == payload
    else:
        assert isinstance(value, (type(None), bool, int, float, str, bytes, list, dict))
