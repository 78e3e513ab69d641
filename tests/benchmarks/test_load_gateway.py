"""The load benchmark's own arithmetic: what it counts, and when a target is missed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.benchmarks.http_load import Connection, Load, put_under_load, request_bytes
from tests.benchmarks.load_gateway import Idle, Watching, figures

HOST = "127.0.0.1"
ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n",
)
STREAM = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    b"10\r\nevent: progress\n\r\n16\r\ndata: {}\n\nevent: done\n\r\n0\r\n\r\n"
)


@asynccontextmanager
async def serving(*answers: bytes) -> AsyncIterator[int]:
    """The port of a server that gives one connection these answers, and then none."""
    left, ended = list(answers), asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while left and await reader.readuntil(b"\r\n\r\n"):
            writer.write(left.pop(0))
        await reader.read()
        writer.close()
        await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(handle, HOST, 0)
    yield server.sockets[0].getsockname()[1]
    await asyncio.wait_for(ended.wait(), 10)
    server.close()


async def test_only_answers_and_refusals_that_say_when_to_come_back_count() -> None:
    async with serving(*ANSWERS) as port:
        load = await put_under_load(HOST, port, request_bytes("GET", "/"), 1, 30.0, hang_s=0.2)
    assert (len(load.accepted_ms), len(load.refused_ms)) == (1, 1)
    assert load.others == Counter({"429": 1, "500": 1, "hang": 1})


async def test_a_stream_is_read_to_its_end() -> None:
    async with serving(STREAM) as port:
        connection = await Connection.open(HOST, port)
        assert await connection.last_event(request_bytes("GET", "/")) == (200, "done")
        connection.close()


def test_each_target_can_be_missed() -> None:
    def missed(idle_ms: float = 20.0, hangs: int = 0, ended: int = 200, many: int = 4000) -> int:
        idle = Idle([idle_ms] * 10, 5.0, 3.0, {"rank": 4.0})
        load = Load(10.0, [900.0] * 10, [1.0] * many, Counter({"hang": hangs} if hangs else {}))
        return sum(not one.met for one in figures(idle, load, Watching(200, ended, 0.1)))

    assert missed() == 0
    assert missed(idle_ms=31.0) == 1
    assert missed(hangs=1) == 1
    assert missed(ended=199) == 1
    assert missed(many=2000) == 1
