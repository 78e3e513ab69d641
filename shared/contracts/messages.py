"""The envelope around every request and reply on the bus, and its bytes (msgpack)."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from shared.contracts.skills import Request, Result
from shared.errors import DecodeError

SCHEMA_VERSION = 1


class Failure(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Why a whole request was not answered. `retryable` is true when asking again may help."""

    reason: str
    retryable: bool = False


class RequestMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One request to an agent.

    Attributes:
        message_id: deterministic, "{run id}/{epoch}/{query_id}/{step}/{part}", the same in a retry.
        job_id: the run, or the search, this belongs to; cancellation names it.
        query_id: the query within the job.
        reply_to: the Redis list that takes the reply.
        attempt: 1-based count of how often the coordinator has asked.
        deadline_s: Unix time after which nobody waits for the answer; None = no limit.
    """

    message_id: str
    job_id: str
    query_id: str
    reply_to: str
    body: Request
    attempt: int = 1
    deadline_s: float | None = None
    schema_version: int = SCHEMA_VERSION


class ReplyMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The one answer to a request: a result body, or why there is none."""

    message_id: str
    worker: str
    body: Result | Failure
    schema_version: int = SCHEMA_VERSION


Message = TypeVar("Message", RequestMessage, ReplyMessage)


_ENCODER = msgspec.msgpack.Encoder()
_DECODERS: dict[type, Any] = {
    kind: msgspec.msgpack.Decoder(kind) for kind in (RequestMessage, ReplyMessage)
}


def encode(message: RequestMessage | ReplyMessage) -> bytes:
    """Message -> msgpack bytes."""
    return _ENCODER.encode(message)


def decode(payload: bytes, kind: type[Message]) -> Message:
    """msgpack bytes -> validated message.

    Raises: DecodeError: no msgpack, an unknown schema version, a missing or unknown field, or a
        wrong type.
    """
    try:
        message: Message = _DECODERS[kind].decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(payload, _version_trouble(payload) or str(error)) from error
    if message.schema_version != SCHEMA_VERSION:
        raise DecodeError(payload, f"unknown schema version {message.schema_version!r}")
    return message


def _version_trouble(payload: bytes) -> str | None:
    """Another version is told by its number, not by the first field it has changed."""
    try:
        fields = msgspec.msgpack.decode(payload)
    except Exception:
        return None
    if isinstance(fields, dict) and fields.get("schema_version") != SCHEMA_VERSION:
        return f"unknown schema version {fields.get('schema_version')!r}"
    return None
