"""OpenTelemetry traces of a query across the services; nothing happens without XR_OTLP_ENDPOINT."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from shared.errors import ConfigurationError

_FLUSH_WITHIN_MS = 3000
_provider: Any = None
_tracer: Any = None  # both of opentelemetry, once `set_up` was called with an endpoint


def set_up(service: str, endpoint: str) -> None:
    """Send this process's spans to `endpoint` (OTLP over HTTP) from now on; empty = send none.

    Raises: ConfigurationError: the packages of the extra `traces` are missing.
    """
    global _provider, _tracer
    if not endpoint or _tracer is not None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigurationError(
            f"XR_OTLP_ENDPOINT is set, but {error.name} is not installed: install the extra"
            " 'traces', or leave the setting empty"
        ) from error
    _provider = TracerProvider(resource=Resource.create({"service.name": f"xr-{service}"}))
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    _tracer = _provider.get_tracer("xr")


def shut_down() -> None:
    """Send what has not left yet, and make no more."""
    global _provider, _tracer
    if _provider is not None:
        provider, _provider, _tracer = _provider, None, None
        provider.force_flush(_FLUSH_WITHIN_MS)
        provider.shutdown()


@contextmanager
def span(name: str, **attributes: str | int | float) -> Iterator[None]:
    """What happens within, as a part of the span around it; what is raised marks it as failed."""
    if _tracer is None:
        yield
        return
    with _tracer.start_as_current_span(name, attributes=attributes):
        yield


def traceparent() -> str:
    """The current span as W3C's `traceparent`, for a message; empty without one."""
    if _tracer is None:
        return ""
    return _carrier().get("traceparent", "")


def trace_id() -> str:
    """The current trace's id in hexadecimal; empty without one."""
    parent = traceparent()
    return parent.split("-")[1] if parent else ""


def record(
    name: str, parent: str, began_ns: int, ended_ns: int, failure: str = "", **attributes: str
) -> None:
    """A span that is over, below the `traceparent` of a message.

    Args:
        began_ns, ended_ns: Unix times in nanoseconds.
        failure: why it failed; empty = it did not.
    """
    if _tracer is None or not parent:
        return
    from opentelemetry.propagate import extract
    from opentelemetry.trace import Status, StatusCode

    context = extract({"traceparent": parent})
    over = _tracer.start_span(name, context=context, start_time=began_ns, attributes=attributes)
    if failure:
        over.set_status(Status(StatusCode.ERROR, failure))
    over.end(end_time=ended_ns)


def _carrier() -> Mapping[str, str]:
    from opentelemetry.propagate import inject

    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier
