"""The envelope around every request and reply on the bus, and its bytes (msgpack)."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec

from shared.contracts.limits import (
    MAX_COUNTERS,
    MAX_REPLY_BYTES,
    MAX_REQUEST_BYTES,
    Address,
    QueryId,
    TraceParent,
)
from shared.contracts.skills import Request, Result
from shared.errors import MALFORMED, DecodeError, NewerVersionError

SCHEMA_VERSION = 1
"""The newest version of messages this program reads; a message carries the one it needs.

Within a version readers are tolerant: unknown fields are ignored, new fields have defaults. What an
older reader would get wrong (a changed meaning, a new skill) is sent under the next version.
"""


class Failure(msgspec.Struct, frozen=True, tag=True):
    """Why a whole request was not answered. `retryable` is true when asking again may help."""

    reason: str
    retryable: bool = False


class RequestMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One request to an agent.

    Attributes:
        message_id: deterministic, "{run id}/{epoch}/{query_id}/{step}/{part}", the same in a retry.
        job_id: the run, or the search, this belongs to; cancellation names it.
        query_id: the query within the job.
        reply_to: the Redis list that takes the reply.
        attempt: 1-based count of how often the coordinator has asked.
        expires_after_s: nobody waits for the answer so long after the request was queued; None = no
            limit. A duration, not a time: the clocks of machines differ, and jump.
        traceparent: the span this is a part of (W3C), where traces are made; else not on the wire.
        prefers: the consumer that others leave it to while it lives; without one not on the wire.
        schema_version: the oldest version whose readers understand this message.
    """

    message_id: Address
    job_id: Address
    query_id: QueryId
    reply_to: Address
    body: Request
    attempt: int = 1
    expires_after_s: float | None = None
    traceparent: TraceParent | msgspec.UnsetType = msgspec.UNSET
    prefers: Address | msgspec.UnsetType = msgspec.UNSET
    schema_version: int = SCHEMA_VERSION


class ReplyMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The one answer to a request: a result body, or why there is none.

    Attributes:
        spent: what answering has cost: requests, tokens, seconds, by name.
    """

    message_id: Address
    worker: Address
    body: Result | Failure
    spent: Annotated[dict[str, float], msgspec.Meta(max_length=MAX_COUNTERS)] = {}
    schema_version: int = SCHEMA_VERSION


class _Preferring(msgspec.Struct, frozen=True):
    """What is read of a request before it is known who works on it."""

    prefers: str = ""


class _Versioned(msgspec.Struct, frozen=True):
    """What every version of a message has; the rest is skipped and takes no memory."""

    schema_version: object = SCHEMA_VERSION


Message = TypeVar("Message", RequestMessage, ReplyMessage)


_ENCODER = msgspec.msgpack.Encoder()
_DECODERS: dict[type, Any] = {
    kind: msgspec.msgpack.Decoder(kind) for kind in (RequestMessage, ReplyMessage)
}
_PREFERENCE = msgspec.msgpack.Decoder(_Preferring)
_LIMITS: dict[type, int] = {RequestMessage: MAX_REQUEST_BYTES, ReplyMessage: MAX_REPLY_BYTES}


def run_of(job_id: str) -> str:
    """The run's (or search's) own id: on messages its owner's number follows, after a slash."""
    return job_id.rpartition("/")[0] or job_id


def encode(message: RequestMessage | ReplyMessage) -> bytes:
    """Message -> msgpack bytes."""
    return _ENCODER.encode(message)


def decode(payload: bytes, kind: type[Message], known: int = SCHEMA_VERSION) -> Message:
    """msgpack bytes -> validated message.

    Args:
        known: the newest schema version that can be read.
    Raises:
        NewerVersionError: the message needs a newer reader, whatever else it holds.
        DecodeError: no msgpack, a version that never was, a missing field, a wrong type, or more
            of something than `limits` allows.
    """
    if len(payload) > _LIMITS[kind]:
        raise DecodeError(payload, f"{len(payload):,} bytes; at most {_LIMITS[kind]:,} are read")
    try:
        message: Message = _DECODERS[kind].decode(payload)
    except MALFORMED as error:
        _refuse_version(payload, _version_of(payload), known)
        raise DecodeError(payload, str(error)) from error
    _refuse_version(payload, message.schema_version, known)
    return message


def preferred_consumer(payload: bytes) -> str:
    """The consumer a request is best left to; "" = anyone, also where it cannot be read."""
    try:
        return _PREFERENCE.decode(payload).prefers
    except MALFORMED:
        return ""


def _refuse_version(payload: bytes, version: object, known: int) -> None:
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise DecodeError(payload, f"unknown schema version {version!r}")
    if version > known:
        raise NewerVersionError(payload, version, known)


def _version_of(payload: bytes) -> object:
    """Another version is told by its number, not by the first field it has changed."""
    try:
        return msgspec.msgpack.decode(payload, type=_Versioned).schema_version
    except Exception:
        return SCHEMA_VERSION
