"""From whatever a handler returned to the bytes of a reply."""

from __future__ import annotations

from collections.abc import Sequence

import msgpack

from shared.contracts.messages import Failure, ReplyMessage, encode
from shared.contracts.skills import Body, Result


def answers_of_one_length(
    answers: Sequence[Result | Failure], expected: int
) -> Sequence[Result | Failure]:
    """The answers as they are, or failures for all: with a wrong count none can be assigned."""
    count = len(answers) if isinstance(answers, Sequence) else None
    if count == expected:
        return answers
    got = f"{count} answers" if count is not None else f"a {type(answers).__name__}"
    return [Failure(f"the handler returned {got} to {expected} requests")] * expected


def reply_bytes(message_id: str, worker: str, answer: Result | Failure) -> tuple[bytes, bool]:
    """The encoded reply, and whether it is a failure. An answer that is none becomes a failure."""
    if isinstance(answer, Body | Failure):
        try:
            reply = ReplyMessage(message_id=message_id, worker=worker, body=answer)
            return encode(reply), isinstance(answer, Failure)
        except (TypeError, ValueError, OverflowError) as error:
            failure = Failure(f"the answer cannot be encoded: {error}")
    else:
        failure = Failure(f"the handler answered with a {type(answer).__name__}")
    return encode(ReplyMessage(message_id=message_id, worker=worker, body=failure)), True


def salvage(payload: bytes) -> tuple[str, str] | None:
    """Message id and reply list of a malformed request, when they can still be read."""
    try:
        fields = msgpack.unpackb(payload, raw=False)
    except Exception:  # msgpack raises half a dozen unrelated types on bad input
        return None
    if not isinstance(fields, dict):
        return None
    message_id, reply_to = fields.get("message_id"), fields.get("reply_to")
    if isinstance(message_id, str) and isinstance(reply_to, str) and reply_to:
        return message_id, reply_to
    return None
