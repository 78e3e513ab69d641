"""One trace from the asker to the agent; lines of the log with run and query."""

from __future__ import annotations

import json
import logging

import msgspec
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agents.worker import _record_span
from broker.agents_client import AgentsClient
from shared import tracing
from shared.contracts.messages import Failure, ReplyMessage, RequestMessage, decode, encode
from shared.contracts.skills import Caption, CaptionImages, ImagesCaptioned
from shared.logs import JsonLine, about
from shared.settings import Settings


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    return exporter


class AnsweringBus:
    """Hands every request to the agent's side at once, as bytes."""

    reply_to, outages = "xr:reply:test", 0

    def __init__(self) -> None:
        self.sent: list[RequestMessage] = []
        self._replies: list[ReplyMessage] = []

    async def send(self, requests: list[RequestMessage], priority: str = "lo") -> None:
        for request in requests:
            request = decode(encode(request), RequestMessage)
            self.sent.append(request)
            _record_span("imagination", request, Failure("just so"), 1_000)
            body = ImagesCaptioned(results=(Caption(text="a dress"),))
            self._replies.append(ReplyMessage(message_id=request.message_id, worker="w", body=body))

    async def receive(self, timeout_s: float) -> list[ReplyMessage]:
        import asyncio

        await asyncio.sleep(0.01)
        replies, self._replies = self._replies, []
        return replies


async def ask(bus: AnsweringBus) -> None:
    async with AgentsClient(bus, "run-1", 1, Settings()) as agents:  # type: ignore[arg-type]
        with tracing.span("query"):
            await agents.ask("q1", "caption", "0", CaptionImages(gallery="g", rows=(0,)))


async def test_one_query_is_one_trace_across_the_bus(spans: InMemorySpanExporter) -> None:
    await ask(AnsweringBus())
    by_name = {span.name: span for span in spans.get_finished_spans()}
    query, asked = by_name["query"], by_name["ask CaptionImages"]
    answered = by_name["imagination CaptionImages"]
    assert {one.context.trace_id for one in by_name.values()} == {query.context.trace_id}
    assert asked.parent is not None
    assert asked.parent.span_id == query.context.span_id
    assert answered.parent is not None
    assert answered.parent.span_id == asked.context.span_id
    assert answered.status.description == "just so"


async def test_without_traces_messages_are_as_they_were() -> None:
    bus = AnsweringBus()
    await ask(bus)
    assert bus.sent[0].traceparent is msgspec.UNSET
    assert b"traceparent" not in encode(bus.sent[0])
    assert tracing.trace_id() == ""


def test_lines_of_the_log_carry_run_query_and_trace(spans: InMemorySpanExporter) -> None:
    def line() -> dict[str, str]:
        record = logging.LogRecord("broker", logging.INFO, "f", 1, "failed", (), None)
        fields: dict[str, str] = json.loads(JsonLine().format(record))
        return fields

    with about(run="r"), about(query="q"), tracing.span("query"):
        within = line()
        assert within["trace"] == tracing.trace_id()
    assert (within["run"], within["query"], within["event"]) == ("r", "q", "failed")
    assert line().keys() == {"at", "level", "from", "event"}
