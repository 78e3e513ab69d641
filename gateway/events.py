"""Server-sent events: a stream of records, and how it ends when something goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from gateway.errors import problem_of
from gateway.records import Record

MEDIA_TYPE = "text/event-stream"
_KEEP_ALIVE_S = 15.0
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # a proxy that gathers the stream would make it useless
}


Events = AsyncGenerator[tuple[str, Record], None]
"""(name, record) of each event."""


def described(record: type[Record], *names: str) -> dict[int | str, dict[str, Any]]:
    """A response 200 for the description: events of these names, or `problem`, one after another.

    The data of all but `problem` are such a record.
    """
    data = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"$ref": f"#/components/schemas/{record.__name__}"},
    }
    event = {
        "type": "object",
        "required": ["event", "data"],
        "properties": {"event": {"enum": [*names, "problem"]}, "data": data},
    }
    return {200: {"description": "Events", "content": {MEDIA_TYPE: {"schema": event}}}}


async def event_stream(request: Request, events: Events) -> StreamingResponse:
    """The events as a response. What is wrong before the first is an ordinary error; later, the
    stream ends with an event `problem`.

    A comment every 15 s tells proxies, and a client that is gone, that the stream lives.
    """
    first = await anext(events)
    return StreamingResponse(
        _encoded(request, first, events), media_type=MEDIA_TYPE, headers=_HEADERS
    )


async def _encoded(
    request: Request, first: tuple[str, Record], events: Events
) -> AsyncIterator[bytes]:
    yield _event(*first)
    waiting: asyncio.Future[tuple[str, Record]] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait({waiting}, timeout=_KEEP_ALIVE_S)
            if not done:
                yield b": still here\n\n"
                continue
            found, waiting = waiting, None
            yield _event(*found.result())
    except StopAsyncIteration:
        return
    except Exception as error:
        yield _event("problem", problem_of(request, error))
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.wait({waiting})
        await events.aclose()


def _event(name: str, record: BaseModel) -> bytes:
    """JSON has no line breaks of its own, so one data line holds it."""
    return f"event: {name}\ndata: {record.model_dump_json()}\n\n".encode()
