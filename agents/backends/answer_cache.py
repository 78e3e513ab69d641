"""What models have answered before: in Redis where one is given, and on this machine's disk."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from redis import Redis
from redis.exceptions import RedisError

from shared.errors import ConfigurationError
from shared.settings import Settings, mask_secrets

DISK = "disk"

logger = logging.getLogger(__name__)

_PREFIX = b"xr:answer:"
_MOST_PER_STATEMENT = 500
_KEPT_S = 90 * 24 * 3600
_REDIS_PATIENCE = {"socket_timeout": 2.0, "socket_connect_timeout": 2.0}


class AnswerCache(Protocol):
    """Keys are digests of all that shapes an answer, so an entry is never stale."""

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values in order; None where there is none."""
        ...

    def put(self, entries: Mapping[bytes, bytes]) -> None:
        """Keep these; losing them costs time, never a wrong answer."""
        ...


class RedisAnswers:
    """Shared by all workers. While Redis is away nothing is found and nothing kept."""

    def __init__(self, redis: Redis, ttl_s: int) -> None:
        """`redis` should be one that may evict (allkeys-lru), not the one of the queues."""
        self._redis = redis
        self._ttl_s = ttl_s

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if not keys:
            return []
        try:
            found = self._redis.mget([_PREFIX + key for key in keys])
        except RedisError as error:
            logger.warning("the answer cache cannot be read: %s", error)
            return [None] * len(keys)
        return [value if isinstance(value, bytes) else None for value in found]

    def put(self, entries: Mapping[bytes, bytes]) -> None:
        if not entries:
            return
        try:
            pipeline = self._redis.pipeline(transaction=False)
            for key, value in entries.items():
                pipeline.set(_PREFIX + key, value, ex=self._ttl_s)
            pipeline.execute()
        except RedisError as error:
            logger.warning("answers cannot be kept in Redis: %s", error)


class DiskAnswers:
    """One SQLite file, shared by the workers of one machine. Not for network file systems."""

    def __init__(self, path: Path) -> None:
        """Raises: OSError, sqlite3.Error: the file cannot be made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._file = sqlite3.connect(path, timeout=10, check_same_thread=False)
        self._file.execute("PRAGMA journal_mode=WAL")
        self._file.execute("PRAGMA synchronous=NORMAL")
        self._file.execute(
            "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, value BLOB NOT NULL)"
            " WITHOUT ROWID"
        )

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found: dict[bytes, bytes] = {}
        try:
            with self._lock:
                for first in range(0, len(keys), _MOST_PER_STATEMENT):
                    some = keys[first : first + _MOST_PER_STATEMENT]
                    marks = ",".join("?" * len(some))
                    query = f"SELECT key, value FROM answers WHERE key IN ({marks})"  # noqa: S608 (only marks)
                    found.update(self._file.execute(query, some))
        except sqlite3.Error as error:
            logger.warning("the answer cache cannot be read: %s", error)
        return [found.get(key) for key in keys]

    def put(self, entries: Mapping[bytes, bytes]) -> None:
        try:
            with self._lock, self._file:
                self._file.executemany(
                    "INSERT OR IGNORE INTO answers VALUES (?, ?)", list(entries.items())
                )
        except sqlite3.Error as error:  # a full disk, another process's long write
            logger.warning("answers cannot be kept on disk: %s", error)

    def close(self) -> None:
        with self._lock:
            self._file.close()


class TieredAnswers:
    """Asks the first tier, then the next for what is missing, which then goes to the first, too."""

    def __init__(self, tiers: Sequence[AnswerCache]) -> None:
        self._tiers = list(tiers)

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        values: list[bytes | None] = [None] * len(keys)
        for level, tier in enumerate(self._tiers):
            missing = [place for place, value in enumerate(values) if value is None]
            if not missing:
                break
            found = dict(zip(missing, tier.get([keys[place] for place in missing]), strict=True))
            for place, value in found.items():
                values[place] = value
            new = {keys[place]: value for place, value in found.items() if value is not None}
            for upper in self._tiers[:level] if new else ():
                upper.put(new)
        return values

    def put(self, entries: Mapping[bytes, bytes]) -> None:
        for tier in self._tiers:
            tier.put(entries)


def open_answer_cache(settings: Settings) -> AnswerCache | None:
    """What XR_ANSWER_CACHE says: the Redis tier first, then the disk's; None when it is off.

    Raises: ConfigurationError: neither off, disk nor a URL, or the file can't be made.
    """
    named = [part.strip() for part in settings.answer_cache.split(",")]
    if named == ["off"]:
        return None
    tiers: list[AnswerCache] = []
    for part in sorted(named, key=lambda part: part == DISK):
        if part == DISK:
            path = settings.home / "cache" / "answers.sqlite"
            try:
                tiers.append(DiskAnswers(path))
            except (OSError, sqlite3.Error) as error:
                raise ConfigurationError(f"the answer cache {path}: {error}") from error
        else:
            try:
                tiers.append(RedisAnswers(Redis.from_url(part, **_REDIS_PATIENCE), _KEPT_S))
            except ValueError as error:
                raise ConfigurationError(
                    f"XR_ANSWER_CACHE is {mask_secrets(part)!r}: use off, disk, the URL of a Redis"
                    " that may evict, or a URL and disk with a comma between"
                ) from error
    return TieredAnswers(tiers) if len(tiers) > 1 else tiers[0]
