"""`python -m broker`: the coordinator process, an RQ worker of benchmark jobs."""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
import sys

from redis.exceptions import RedisError

from broker.health import CoordinatorHealth
from broker.rq_worker import BenchmarkWorker, connect_sync
from broker.run_keys import QUEUE_NAME
from shared.bus.connection import connect, wait_until_reachable
from shared.errors import ConfigurationError
from shared.health_server import HealthServer
from shared.image_files import limit_pixels
from shared.logs import log_to_stderr
from shared.settings import Settings, load_settings

logger = logging.getLogger("broker")


def main(arguments: list[str] | None = None) -> int:
    """Serve benchmark jobs until told to stop; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m broker", description=__doc__)
    parser.add_argument("--burst", action="store_true", help="stop when no job waits any more")
    options = parser.parse_args(arguments)
    try:
        settings = load_settings()
        log_to_stderr(settings.log_level)
        logger.info("settings %s", settings.masked())
        limit_pixels(settings.max_pixels)
        return serve(settings, burst=options.burst)
    except ConfigurationError as error:
        print(f"broker: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def serve(settings: Settings, burst: bool = False) -> int:
    """Wait for Redis, then work. SIGTERM: the run under way is queued again, then this returns.

    Returns: 0, or 1 when the work ended though nobody asked for it (the log says why).
    """
    asyncio.run(_wait_for_redis(settings))
    redis = connect_sync(settings.redis_url)
    try:
        worker = BenchmarkWorker(redis, name=settings.worker_name or socket.gethostname())
        if settings.health_port:
            health = CoordinatorHealth(worker, settings)
            HealthServer(health, health.exposition, settings.health_port)
        logger.info("Listening on queue %s as %s", QUEUE_NAME, worker.name)
        # RQ tells of its maintenance every two seconds; runs are told by our own lines.
        worker.work(burst=burst, logging_level="WARNING")
    except RedisError as error:
        logger.error("Redis does not answer, so this coordinator ends: %s", error)
        return 1
    finally:
        redis.close()
    return 0 if burst or worker.told_to_stop else 1


async def _wait_for_redis(settings: Settings) -> None:
    redis = connect(settings.redis_url)
    try:
        await wait_until_reachable(redis)
    finally:
        await redis.aclose()


if __name__ == "__main__":
    sys.exit(main())
