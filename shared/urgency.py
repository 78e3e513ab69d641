"""How urgent the work in hand is: set by the bus around a handler, read by engines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import IntEnum


class Urgency(IntEnum):
    """Lower is sooner, as vLLM orders its requests."""

    INTERACTIVE = 0
    BENCHMARK = 1


_current: ContextVar[Urgency] = ContextVar("urgency", default=Urgency.BENCHMARK)


def urgency() -> Urgency:
    """Of the message being answered by this thread or task."""
    return _current.get()


@contextmanager
def answering(level: Urgency) -> Iterator[None]:
    """Everything asked of a model within the block is this urgent."""
    token = _current.set(level)
    try:
        yield
    finally:
        _current.reset(token)
