"""`python -m agents imagination question`: one worker process for one or several agents."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, get_args

from shared import tracing
from shared.contracts.skills import AgentName
from shared.errors import ConfigurationError
from shared.logs import log_to_stderr
from shared.settings import Settings, load_settings

logger = logging.getLogger("agents")

EXIT_CRASHED = 1
EXIT_MISCONFIGURED = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 after SIGTERM or SIGINT, 1 when the worker's loop or its engine has died,
    2 when misconfigured, 3 when the model was stuck (`agents.watchdog`).
    """
    names = _agent_names(arguments)
    try:
        settings = load_settings()
        log_to_stderr(settings.log_level)
        _bound_threads(settings.model_threads)
        logger.info("starting %s with %s", ", ".join(names), settings.masked())
        tracing.set_up("-".join(names), settings.otlp_endpoint)
        asyncio.run(_run(names, settings))
    except ConfigurationError as error:
        logging.basicConfig()
        logger.error("%s", error)
        return EXIT_MISCONFIGURED
    except Exception:
        logger.exception("the worker has died")
        return EXIT_CRASHED
    finally:
        _end_engine_processes()
    return 0


async def _run(names: Sequence[AgentName], settings: Settings) -> None:
    # Imported late: numpy and torch read the bounds on threads when they are imported.
    from agents.engine import Engine
    from agents.health import Health
    from agents.watchdog import start_watchdog
    from agents.worker import prepare_agents, serve

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    engine = Engine(settings.engine_timeout_s)
    health = Health(engine, settings.canary_s)
    turning = asyncio.create_task(health.note_turns())
    if settings.health_port:
        from agents.metrics import exposition
        from shared.health_server import HealthServer

        HealthServer(health, lambda: exposition(health), settings.health_port)
    loading = engine.load(prepare_agents, names, settings)
    stopping = asyncio.ensure_future(stop.wait())
    first: set[asyncio.Future[Any]] = {loading, stopping}
    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    if not loading.done():
        logger.info("stopped while loading")
        _end_at_once()  # nothing is in hand yet
    stopping.cancel()
    prepared = loading.result()
    start_watchdog(engine, health)
    try:
        drained = await serve(prepared, settings, stop, engine, health)
    finally:
        turning.cancel()
        engine.close()
        tracing.shut_down()
    if not drained:
        _end_at_once()


def _end_engine_processes() -> None:
    from agents.engine import end_engine_processes

    end_engine_processes()


def _end_at_once() -> NoReturn:
    """A thread that is in a large model can't be interrupted, and must not hold up the end."""
    _end_engine_processes()
    logging.shutdown()
    os._exit(0)


def _agent_names(arguments: Sequence[str] | None) -> list[AgentName]:
    parser = argparse.ArgumentParser(prog="python -m agents", description=__doc__)
    parser.add_argument(
        "agents", nargs="+", choices=get_args(AgentName), help="the agents this process serves"
    )
    named: list[AgentName] = parser.parse_args(arguments).agents
    return list(dict.fromkeys(named))


def _bound_threads(threads: int) -> None:
    """Every library that brings threads of its own reads one of these when it is loaded."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(max(1, threads))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


if __name__ == "__main__":
    sys.exit(main())
