"""What a run says of itself: on the disk, where it counts, and in Redis, where it is fresh."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from broker.progress import Progress
from broker.run_keys import run_key
from broker.run_store import STATUS, RunStore, change_status, read_json

logger = logging.getLogger(__name__)

QUEUED, RUNNING = "queued", "running"
FINISHED, FAILED, CANCELLED = "finished", "failed", "cancelled"
OVER = frozenset({FINISHED, FAILED, CANCELLED})

Publish = Callable[[Mapping[str, Any]], Awaitable[None]]

_KEPT_S = 7 * 24 * 3600


class RunStatus:
    """The status of the run this process owns.

    Attributes:
        progress: its phases.
        counts: queries, failed, fallbacks and the like, once known.
    """

    def __init__(self, store: RunStore, epoch: int, redis: Redis, publish: Publish) -> None:
        """`publish` is told of the status whenever Redis is."""
        self.progress = Progress()
        self.counts: dict[str, int] = {}
        self._store, self._epoch, self._redis, self._publish = store, epoch, redis, publish
        former = read_json(store.folder.parent.parent, store.run_id, STATUS) or {}
        self._submitted_at = former.get("submitted_at", "")
        self._note = ""

    def say(self, note: str) -> None:
        """What the run waits for, shown with its next status; empty = nothing."""
        self._note = note

    async def tell(self, state: str, error: str = "") -> dict[str, Any]:
        """A new state: to the disk first, as Redis may be empty tomorrow. Returns the status.

        Raises: OSError: the disk does not take it; Redis has it then.
        """
        status = self.as_of(state, error)
        try:
            self._store.write_status(status)
        finally:  # a disk that takes no more does not keep the news from whoever watches
            await self._send(status)
        return status

    async def publish(self, state: str) -> None:
        """How far the run is, to Redis only."""
        await self._send(self.as_of(state, ""))

    def as_of(self, state: str, error: str) -> dict[str, Any]:
        """The status as it is now."""
        return {
            "id": self._store.run_id,
            "state": state,
            "phase": self.progress.phase,
            "note": self._note,
            "progress": self.progress.snapshot(),
            "counts": self.counts,
            "error": error,
            "submitted_at": self._submitted_at,
            "owner": self._epoch,
        }

    async def _send(self, status: dict[str, Any]) -> None:
        last = status["progress"][-1] if status["progress"] else {}
        fields: dict[bytes | bytearray | memoryview[int] | str | int | float, Any] = {
            "state": status["state"],
            "phase": status["phase"],
            "done": last.get("done", 0),
            "total": last.get("total", 0),
            "failed": last.get("failed", 0),
            "rate": last.get("rate_per_s", 0.0),
            "status": json.dumps(status),
        }
        key = run_key(self._store.run_id)
        try:
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.hset(key, mapping=fields)
            pipeline.expire(key, _KEPT_S)
            await pipeline.execute()
            await self._publish(status)
        except RedisError as error:
            logger.warning("the run's progress cannot be published: %s", error)


async def say_failed(redis: Redis, runs_folder: Path, run_id: str, error: str) -> None:
    """For a run whose folder nobody can open as its owner."""
    logger.error("run %s failed: %s", run_id, error)
    try:
        change_status(runs_folder, run_id, state=FAILED, error=error)
    except OSError as trouble:
        logger.error("status.json of run %s cannot be written: %s", run_id, trouble)
    key, status = run_key(run_id), {"id": run_id, "state": FAILED, "error": error}
    try:
        await redis.hset(key, mapping={"state": FAILED, "status": json.dumps(status)})
        await redis.expire(key, _KEPT_S)
    except RedisError as trouble:
        logger.warning("the run's failure cannot be published: %s", trouble)
