"""Found first by every Python process of the system under test: its wall clock can jump.

A machine's clock can't be set for single processes, so `time.time` and `datetime.now` are replaced
in coordinators and agents; Redis and the gateway keep the true time. FAULTS_CLOCK names a file that
holds by how many seconds the clock is wrong, read anew every time somebody looks at it.
"""

from __future__ import annotations

import datetime
import os
import sys
import time
from pathlib import Path

_OFFSET = os.environ.get("FAULTS_CLOCK", "")
_true_time = time.time
_TrueDatetime = datetime.datetime


def _wrong_time() -> float:
    try:
        return _true_time() + float(Path(_OFFSET).read_text())
    except (OSError, ValueError):
        return _true_time()


class _WrongDatetime(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
        return _TrueDatetime.fromtimestamp(_wrong_time(), tz)

    @classmethod
    def utcnow(cls) -> datetime.datetime:  # type: ignore[override]
        return _TrueDatetime.fromtimestamp(_wrong_time(), datetime.UTC).replace(tzinfo=None)


if _OFFSET and sys.orig_argv[1:3] in (["-m", "broker"], ["-m", "agents"]):
    time.time = _wrong_time
    datetime.datetime = _WrongDatetime  # type: ignore[misc]
