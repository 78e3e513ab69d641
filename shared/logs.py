"""Logs of every service: one JSON object per line, with the run and query they are about."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from shared.tracing import trace_id

OURS = ("agents", "broker", "gateway", "shared")
_about: ContextVar[Mapping[str, str] | None] = ContextVar("about", default=None)


@contextmanager
def about(**ids: str) -> Iterator[None]:
    """Lines logged within, by this task and those it starts, carry these ids too."""
    token = _about.set({**(_about.get() or {}), **ids})
    try:
        yield
    finally:
        _about.reset(token)


class JsonLine(logging.Formatter):
    """A record as {"at": …, "level": …, "from": …, "event": …}, on one line.

    Then whatever `about` says (run, query), "trace" where there is one, "error" for a traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "from": record.name,
            "event": record.getMessage(),
            **(_about.get() or {}),
        }
        if trace := trace_id():
            fields["trace"] = trace
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def log_to_stderr(level: str, also: tuple[str, ...] = ()) -> None:
    """Our own records, and those of `also`, from `level` up; other libraries' from warning up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for ours in (*OURS, *also):
        logging.getLogger(ours).setLevel(level.upper())
