"""A small HTTP/1.1 client that costs next to nothing, so that the server is what is measured."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """One answer: its status, its headers (lower case) and its body."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """One connection that is kept; requests go one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, host: str, port: int) -> Connection:
        return cls(*await asyncio.open_connection(host, port))

    async def ask(self, request: bytes) -> Answer:
        """Send a whole request, see `request_bytes`; read the whole answer."""
        self._writer.write(request)
        status, headers = await self._head()
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(status, headers, body)

    async def last_event(self, request: bytes) -> tuple[int, str]:
        """Follow a stream of server-sent events to its end: the status, and the last event's name.

        The body comes in chunks; a line is never asked for beyond the end of the stream.
        """
        self._writer.write(request)
        status, _ = await self._head()
        name = ""
        while True:
            size = int(await self._reader.readline() or b"0", 16)
            chunk = await self._reader.readexactly(size + 2)
            if not size:
                return status, name
            for line in chunk.split(b"\n"):
                if line.startswith(b"event: "):
                    name = line.removeprefix(b"event: ").decode()

    async def _head(self) -> tuple[int, dict[str, str]]:
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        parted = (line.partition(": ") for line in lines if line)
        return int(first.split(" ")[1]), {name.lower(): value for name, _, value in parted}

    def close(self) -> None:
        self._writer.close()


def request_bytes(method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
    """A request as it goes over the wire, with a body of JSON if there is one."""
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: gateway\r\n"
    if content:
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    return head.encode() + b"\r\n" + content


@dataclass
class Load:
    """What became of many requests.

    Attributes:
        seconds: from the first to the last answer.
        accepted_ms, refused_ms: how long each answer took: 200, and 429 with Retry-After.
        others: what else came -> how often; a request without an answer is a "hang".
    """

    seconds: float = 0.0
    accepted_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    @property
    def per_s(self) -> float:
        return (len(self.accepted_ms) + len(self.refused_ms)) / self.seconds

    def count(self, answer: Answer, took_ms: float) -> None:
        if answer.status == 200:
            self.accepted_ms.append(took_ms)
        elif answer.status == 429 and answer.headers.get("retry-after", "").isdigit():
            self.refused_ms.append(took_ms)
        else:
            self.others[str(answer.status)] += 1


async def put_under_load(
    host: str, port: int, request: bytes, connections: int, seconds: float, hang_s: float
) -> Load:
    """So many connections, each asking again as soon as it has its answer, refused or not."""
    load, began = Load(), time.monotonic()

    async def keep_asking() -> None:
        connection = await Connection.open(host, port)
        while time.monotonic() - began < seconds:
            asked = time.perf_counter()
            try:
                answer = await asyncio.wait_for(connection.ask(request), hang_s)
            except TimeoutError:
                load.others["hang"] += 1
                break
            except (OSError, asyncio.IncompleteReadError) as error:
                load.others[type(error).__name__] += 1
                break
            load.count(answer, 1000 * (time.perf_counter() - asked))
        connection.close()

    await asyncio.gather(*(keep_asking() for _ in range(connections)))
    load.seconds = time.monotonic() - began
    return load
