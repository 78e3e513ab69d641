"""Ends a process whose model or event loop is stuck: no thread in a model can be interrupted."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

from agents.engine import Engine, end_engine_processes
from agents.health import Health

EXIT_STUCK = 3
_LOOP_MAY_STAND_STILL_S = 30.0

logger = logging.getLogger(__name__)


def start_watchdog(
    engine: Engine, health: Health, end: Callable[[int], object] = os._exit
) -> threading.Thread:
    """Watch from a thread of its own, until the process ends.

    The messages in hand stay unacknowledged: their leases lapse, and each is delivered again alone.
    """

    def watch() -> None:
        while True:
            time.sleep(min(engine.limit_s / 4, 1.0))
            trouble = _trouble(engine, health)
            if trouble:
                logger.critical("%s: this process ends, its messages go to others", trouble)
                end_engine_processes()
                logging.shutdown()
                end(EXIT_STUCK)
                return

    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    return thread


def _trouble(engine: Engine, health: Health) -> str:
    if engine.is_hung:
        return (
            f"a batch has been in the model for {engine.busy_for_s:.0f} s, longer than "
            f"XR_ENGINE_TIMEOUT_S = {engine.limit_s:g}"
        )
    if health.loop_still_for_s > max(engine.limit_s, _LOOP_MAY_STAND_STILL_S):
        return f"the event loop has stood still for {health.loop_still_for_s:.0f} s"
    return ""
