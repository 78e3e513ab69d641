"""A gateway behind a real port in this process, with a finished run, a gallery and an upload."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvicorn
from PIL import Image

from broker.benchmark_run import coordinate
from gateway.app import create_app
from gateway.commands.services import listen
from gateway.redis_client import gateway_redis
from shared.bus.connection import connect
from shared.redis_server import PrivateRedis
from shared.settings import Settings
from tests.integration.broker.conftest import LiveAgents, workplace

_READY_S = 60.0
Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Served:
    """What is there to be asked for.

    Attributes:
        run: id of a finished run over a data set of `tests.integration.broker.conftest`.
        gallery: name of an indexed gallery of its images.
        upload: id of an uploaded reference image.
    """

    url: str
    run: str
    gallery: str
    upload: str
    image: str = "03.png"


@contextlib.contextmanager
def served_gateway(folder: Path) -> Iterator[Served]:
    """Everything in one more thread: agents without models, the coordinator, and the server."""
    with (
        PrivateRedis(folder / "redis", unix_socket=True, append_only=False) as redis,
        _loop() as on,
    ):
        settings = workplace(folder, redis.url)
        client = connect(settings.redis_url)
        listening = listen("127.0.0.1", 0)
        of_gateway = gateway_redis(settings)
        app = create_app(settings, of_gateway)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
        agents = LiveAgents(client)

        async def start() -> asyncio.Task[None]:
            for agent in ("imagination", "similarity", "question"):
                agents.start(agent)
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            while not server.started:  # noqa: ASYNC110 - uvicorn sets no event
                await asyncio.sleep(0.01)
            return serving

        async def stop(serving: asyncio.Task[None]) -> None:
            server.should_exit = True
            await serving
            await agents.stop()
            await client.aclose()
            await of_gateway.aclose()

        serving = on.run(start())
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            yield _furnished(url, settings, lambda run: on.run(_work(run, settings, client)))
        finally:
            on.run(stop(serving))
            listening.close()


def _furnished(url: str, settings: Settings, work: Any) -> Served:
    with httpx.Client(base_url=url, timeout=_READY_S) as http:
        body = {"dataset": "folder:pictures", "split": "all", "knobs": {"top_k": 4}}
        run = http.post("/v1/benchmarks", json=body).raise_for_status().json()["id"]
        work(run)
        named = {"name": "mine", "folder": "pictures"}
        gallery = http.post("/v1/galleries", json=named).raise_for_status().json()
        work(gallery["benchmark_id"])
        stream = io.BytesIO()
        Image.new("RGB", (40, 20), "green").save(stream, "PNG")
        upload = http.post("/v1/uploads", content=stream.getvalue()).raise_for_status().json()
    return Served(url=url, run=run, gallery="mine", upload=upload["id"])


async def _work(run: str, settings: Settings, redis: Any) -> None:
    async def ignore(_: Any) -> None: ...

    await coordinate(run, settings, redis, ignore)


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def run(self, work: Coroutine[Any, Any, Outcome]) -> Outcome:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_READY_S)


@contextlib.contextmanager
def _loop() -> Iterator[_Loop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield _Loop(loop)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
