"""`python -m agents imagination question`: one worker process for one or several agents."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

from agents.logs import log_to_stderr
from shared.contracts.skills import AgentName
from shared.errors import ConfigurationError
from shared.settings import Settings, load_settings

logger = logging.getLogger("agents")

EXIT_CRASHED = 1
EXIT_MISCONFIGURED = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """0 after SIGTERM or SIGINT, 1 when the worker's loop has died, 2 when misconfigured."""
    names = _agent_names(arguments)
    try:
        settings = load_settings()
        log_to_stderr(settings.log_level)
        _bound_threads(settings.model_threads)
        logger.info("starting %s with %s", ", ".join(names), settings.masked())
        asyncio.run(_run(names, settings))
    except ConfigurationError as error:
        logging.basicConfig()
        logger.error("%s", error)
        return EXIT_MISCONFIGURED
    except Exception:
        logger.exception("the worker has died")
        return EXIT_CRASHED
    return 0


async def _run(names: Sequence[AgentName], settings: Settings) -> None:
    # Imported late: numpy and torch read the bounds on threads when they are imported.
    from agents.worker import prepare_agents, serve

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    compute = ThreadPoolExecutor(1, "models")
    loading = loop.run_in_executor(compute, prepare_agents, names, settings)
    stopping = asyncio.ensure_future(stop.wait())
    first: set[asyncio.Future[Any]] = {loading, stopping}
    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    if not loading.done():
        logger.info("stopped while loading")
        logging.shutdown()
        # Nothing is in hand yet, and a thread that loads a large model can't be interrupted.
        os._exit(0)
    stopping.cancel()
    try:
        await serve(loading.result(), settings, stop, compute)
    finally:
        compute.shutdown(wait=False, cancel_futures=True)


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
