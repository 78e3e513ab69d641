"""The threads that the models of a process run on, and what they are doing."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from shared.bus.asking import EngineDeadError
from shared.errors import TransientError

Given = ParamSpec("Given")
Outcome = TypeVar("Outcome")

_DEAD = {"AcceleratorError", "EngineDeadError"}
"""What engines call their own death: torch that of a GPU context, vllm that of its process. The
engines themselves are not imported here."""
_MOST_AT_ONCE = 1024
"""Threads; the consumers bound what is under way, and idle threads are used again."""
_OUT_OF_MEMORY = {"OutOfMemoryError", "MemoryError"}


def end_engine_processes() -> None:
    """An engine that computes in processes of its own must not outlive ours, and hold its GPU."""
    for process in multiprocessing.active_children():
        process.terminate()


class MemoryFullError(TransientError):
    """A batch did not fit into the memory of the machine or of its GPU."""


class Engine:
    """Runs work on one thread, as most models aren't re-entrant, and knows since when.

    Args:
        limit_s: work that takes longer counts as hung.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._thread = ThreadPoolExecutor(1, "models")
        self._threads: ThreadPoolExecutor | None = None
        self._begun_s: dict[object, float] = {}
        self._passed_s: float | None = None

    @property
    def busy_for_s(self) -> float:
        """How long the oldest work under way has taken; 0 when there is none."""
        begun_s = list(self._begun_s.values())
        return time.monotonic() - min(begun_s) if begun_s else 0.0

    @property
    def is_hung(self) -> bool:
        return self.busy_for_s > self.limit_s

    @property
    def idle_for_s(self) -> float:
        """How long ago a real item last came through; infinite before the first."""
        return float("inf") if self._passed_s is None else time.monotonic() - self._passed_s

    def passed(self) -> None:
        """A real item has come through the model."""
        self._passed_s = time.monotonic()

    def load(
        self,
        work: Callable[Given, Outcome],
        *given: Given.args,
        **named: Given.kwargs,
    ) -> asyncio.Future[Outcome]:
        """Queue work on the thread that may take as long as it wants."""
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._thread, lambda: work(*given, **named))

    def run(
        self,
        work: Callable[Given, Outcome],
        *given: Given.args,
        **named: Given.kwargs,
    ) -> asyncio.Future[Outcome]:
        """Queue work on the one thread, in the caller's context.

        Raises (when awaited):
            EngineDeadError: the engine is gone for good.
            MemoryFullError: with less at once it may work.
        """
        return self._run(self._thread, lambda: work(*given, **named))

    def run_beside(
        self,
        work: Callable[Given, Outcome],
        *given: Given.args,
        **named: Given.kwargs,
    ) -> asyncio.Future[Outcome]:
        """The same on a thread of its own: for models that many threads may ask at once."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_MOST_AT_ONCE, "asking")
        return self._run(self._threads, lambda: work(*given, **named))

    def _run(
        self, threads: ThreadPoolExecutor, work: Callable[[], Outcome]
    ) -> asyncio.Future[Outcome]:
        def timed() -> Outcome:
            mark = object()
            self._begun_s[mark] = time.monotonic()
            try:
                return _naming_its_end(work)
            finally:
                del self._begun_s[mark]

        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(threads, lambda: context.run(timed))

    def close(self) -> None:
        """Nothing more is begun; what is under way can't be interrupted."""
        for threads in (self._thread, self._threads):
            if threads is not None:
                threads.shutdown(wait=False, cancel_futures=True)


def _naming_its_end(work: Callable[[], Outcome]) -> Outcome:
    try:
        return work()
    except Exception as error:
        trouble = f"{type(error).__name__}: {error}"
        if {kind.__name__ for kind in type(error).__mro__} & _DEAD:
            raise EngineDeadError(trouble) from error
        if not _is_out_of_memory(error):
            raise
    # No longer within `except`, and without the error as its cause: the traceback holds on to the
    # memory that the batch took.
    gc.collect()
    raise MemoryFullError(trouble)


def _is_out_of_memory(error: Exception) -> bool:
    if {kind.__name__ for kind in type(error).__mro__} & _OUT_OF_MEMORY:
        return True
    return isinstance(error, RuntimeError) and "out of memory" in str(error).lower()
