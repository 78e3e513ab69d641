"""From whatever a handler returned to the bytes of a reply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec

from shared.contracts.messages import Failure, ReplyMessage, encode
from shared.contracts.skills import Body, Result


def answers_of_one_length(answers: object, expected: int) -> Sequence[Result | Failure]:
    """The answers as they are, or failures for all: with a wrong count none can be assigned."""
    if not isinstance(answers, list | tuple):
        got = f"a {type(answers).__name__}"
    elif len(answers) != expected:
        got = f"{len(answers)} answers"
    else:
        return answers
    return [Failure(f"the handler returned {got} to {expected} requests")] * expected


def reply_bytes(message_id: str, worker: str, answer: object) -> tuple[bytes, bool]:
    """The encoded reply, and whether it is a failure. An answer that is none becomes a failure."""
    if isinstance(answer, Body | Failure):
        try:
            body = cast(Result | Failure, answer)
            reply = ReplyMessage(message_id=message_id, worker=worker, body=body)
            return encode(reply), isinstance(answer, Failure)
        except (TypeError, ValueError, OverflowError) as error:
            failure = Failure(f"the answer cannot be encoded: {error}")
    else:
        failure = Failure(f"the handler answered with a {type(answer).__name__}")
    return encode(ReplyMessage(message_id=message_id, worker=worker, body=failure)), True


def salvage(payload: bytes) -> tuple[str, str] | None:
    """Message id and reply list of a malformed request, when they can still be read."""
    try:
        fields = msgspec.msgpack.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    message_id, reply_to = fields.get("message_id"), fields.get("reply_to")
    if isinstance(message_id, str) and isinstance(reply_to, str) and reply_to:
        return message_id, reply_to
    return None
