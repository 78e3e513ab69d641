"""Jobs as they are read from Redis: whatever lies there, they run one function or none."""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Mapping
from typing import Any

from redis import Redis
from redis.exceptions import RedisError, ResponseError
from rq import Queue
from rq.exceptions import DeserializationError, NoSuchJobError
from rq.job import Job

from shared.errors import PermanentError

FUNCTION = "broker.benchmark_job.run_benchmark"
"""The one function jobs run, as RQ finds it."""
MAX_FIELD_BYTES = 1 << 20
"""Of a field that RQ keeps compressed (the job's data, what it raised), once it is unpacked."""

_ID = re.compile(rb"[A-Za-z0-9_-]{1,200}")
_EXECUTION = re.compile(rb"[A-Za-z0-9_-]{1,200}:[A-Za-z0-9_-]{1,200}")
_COMPRESSED = (b"data", b"exc_info")
_NOT_OURS = ("callback", "webhooks", "dependency", "depend", "repeat", "group_id", "rate_limit")
"""Fields by which RQ calls other functions and addresses, or waits for other jobs."""

logger = logging.getLogger(__name__)


class RefusedJobError(DeserializationError, PermanentError):  # type: ignore[misc] # rq is untyped
    """A job asks for something else than a benchmark run. It fails, and is not tried again."""


class BenchmarkJob(Job):  # type: ignore[misc]
    """A job that calls `FUNCTION` with plain values, and nothing else.

    RQ calls any function that a job names. Who can write to Redis could have any program run by
    the coordinator; this is where that ends.
    """

    meta: Any
    data: Any

    @classmethod
    def fetch(cls, id: str, connection: Redis | None = None, serializer: Any = None) -> Job:  # noqa: A002
        """Raises: NoSuchJobError: there is none, or what there is is no job."""
        try:
            return super().fetch(id, connection=connection, serializer=serializer)
        except NoSuchJobError:
            raise
        except Exception as error:
            if isinstance(error, RedisError) and not _wrong_kind_of_key(error):
                raise
            logger.error("job %.100r is malformed and left aside: %s", id, error)
            raise NoSuchJobError(f"job {id!r} is malformed: {error}") from error

    def restore(self, raw_data: Mapping[bytes, bytes]) -> Any:
        """Raises: ValueError and others: what lies in Redis is no job."""
        ours = {
            name: value
            for name, value in raw_data.items()
            if not any(word in name.decode() for word in _NOT_OURS)
        }
        for name in _COMPRESSED:
            _check_unpacked_size(name, ours.get(name, b""))
        super().restore(ours)
        if not isinstance(self.meta, dict):
            self.meta = {}

    def _deserialize_data(self) -> None:
        try:
            super()._deserialize_data()
        except DeserializationError as error:
            raise RefusedJobError(f"its data cannot be read: {error.__cause__}") from error
        if self._func_name != FUNCTION or self._instance is not None:
            asked = str(self._func_name)
            self.data = self.data  # forget what was read: nobody may call it
            raise RefusedJobError(f"it asks for {asked!r}; only {FUNCTION} is run")


def well_formed_id(job_id: bytes) -> bool:
    """Whether an entry of a queue can be a job's id."""
    return _ID.fullmatch(job_id) is not None


def throw_junk_out(queue: Queue) -> None:
    """Remove from a queue's lists what can be no entry of theirs; one such entry stops RQ.

    A key of a kind that RQ cannot read is removed whole.
    """
    for key, kind, entry in (
        (queue.key, b"list", _ID),
        (queue.intermediate_queue.key, b"list", _ID),
        (queue.started_job_registry.key, b"zset", _EXECUTION),
        (queue.scheduled_job_registry.key, b"zset", _ID),
        (queue.failed_job_registry.key, b"zset", _ID),
        (queue.finished_job_registry.key, b"zset", _ID),
        (queue.deferred_job_registry.key, b"zset", _ID),
        (queue.canceled_job_registry.key, b"zset", _ID),
    ):
        _throw_junk_out_of(queue.connection, key, kind, entry)


def _throw_junk_out_of(redis: Any, key: str, kind: bytes, entry: re.Pattern[bytes]) -> None:
    found = redis.type(key)
    if found not in (kind, b"none"):
        logger.error("%s is a %s, not a %s: removed", key, found.decode(), kind.decode())
        redis.delete(key)
        return
    entries = redis.lrange(key, 0, -1) if kind == b"list" else redis.zrange(key, 0, -1)
    for junk in entries:
        if entry.fullmatch(junk):
            continue
        logger.error("an entry of %s is no job: %.100r", key, junk)
        if kind == b"list":
            redis.lrem(key, 1, junk)
        else:
            redis.zrem(key, junk)


def _wrong_kind_of_key(error: RedisError) -> bool:
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)


def _check_unpacked_size(name: bytes, content: bytes) -> None:
    unpacking = zlib.decompressobj()
    try:
        size = len(unpacking.decompress(content, MAX_FIELD_BYTES + 1))
    except zlib.error:  # RQ takes such a field as it is
        size = len(content)
    if size > MAX_FIELD_BYTES:
        raise ValueError(f"its {name.decode()} has more than {MAX_FIELD_BYTES} bytes")
