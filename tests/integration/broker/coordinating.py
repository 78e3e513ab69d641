"""Coordinates runs in processes that can be killed.

Reads run ids from standard input; for each it forks a process that brings the run to its end,
prints that process's id, and "ended" when it is over, however it ended. A fork imports nothing.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback

from broker.benchmark_run import coordinate
from shared.bus.connection import connect
from shared.settings import load_settings

_LEASE_S = 0.5


async def _ignore(status: object) -> None:
    """Nobody watches."""


async def _to_its_end(run_id: str) -> None:
    settings = load_settings()
    redis = connect(settings.redis_url)
    try:
        await coordinate(run_id, settings, redis, _ignore, lease_s=_LEASE_S)
    finally:
        await redis.aclose()


def main() -> None:
    for line in sys.stdin:
        process_id = os.fork()
        if process_id == 0:
            try:
                asyncio.run(_to_its_end(line.strip()))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(0)
        print(process_id, flush=True)
        os.waitpid(process_id, 0)
        print("ended", flush=True)


if __name__ == "__main__":
    main()
