"""From whatever a handler returned to the bytes of a reply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import msgspec

from shared.bus import keys
from shared.contracts.limits import Address
from shared.contracts.messages import Failure, ReplyMessage, encode
from shared.contracts.skills import Body, Result
from shared.errors import MALFORMED


class Answered(NamedTuple):
    """An answer, and what it has cost: requests, tokens, seconds, by name."""

    body: Result | Failure
    spent: Mapping[str, float]


Answer = Result | Failure | Answered


class _Addressed(msgspec.Struct, frozen=True):
    """What is left of a request that cannot be read; the rest is skipped and takes no memory."""

    message_id: Address
    reply_to: Address


class _Answering(msgspec.Struct, frozen=True):
    """The same of a reply."""

    message_id: Address
    worker: Address = ""


def answers_of_one_length(answers: object, expected: int) -> Sequence[Answer]:
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
    spent: dict[str, float] = {}
    if isinstance(answer, Answered):
        spent = dict(answer.spent)
        answer = answer.body
    if isinstance(answer, Body | Failure):
        try:
            body = cast(Result | Failure, answer)
            reply = ReplyMessage(message_id=message_id, worker=worker, body=body, spent=spent)
            return encode(reply), isinstance(answer, Failure)
        except (TypeError, ValueError, OverflowError) as error:
            failure = Failure(f"the answer cannot be encoded: {error}")
    else:
        failure = Failure(f"the handler answered with a {type(answer).__name__}")
    return encode(ReplyMessage(message_id=message_id, worker=worker, body=failure)), True


def salvage(payload: bytes) -> tuple[str, str] | None:
    """Message id and reply list of a malformed request, when they can still be read."""
    try:
        addressed = msgspec.msgpack.decode(payload, type=_Addressed)
    except MALFORMED:
        return None
    return (addressed.message_id, addressed.reply_to) if addressed.reply_to else None


def failure_for_unreadable(payload: bytes, worker: str, reason: str) -> tuple[str, bytes] | None:
    """Reply list and reply for a request we can't read, when it still says who asks."""
    addressed = salvage(payload)
    if addressed is None or not addressed[1].startswith(keys.REPLY_PREFIX):
        return None
    message_id, reply_to = addressed
    return reply_to, reply_bytes(message_id, worker, Failure(reason))[0]


def failure_of_newer_reply(payload: bytes, reason: str) -> ReplyMessage | None:
    """What a reply of a newer version means here: no answer, ask again (an older worker may)."""
    try:
        fields = msgspec.msgpack.decode(payload, type=_Answering)
    except MALFORMED:
        return None
    body = Failure(f"reply of a newer worker: {reason}", retryable=True)
    return ReplyMessage(message_id=fields.message_id, worker=fields.worker, body=body)
