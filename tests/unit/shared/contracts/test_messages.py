"""Every message survives its bytes; no bytes raise anything but DecodeError."""

from __future__ import annotations

import contextlib
import typing
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts import skills
from shared.contracts.messages import Failure, ReplyMessage, RequestMessage, decode, encode
from shared.errors import DecodeError

CAPTION = RequestMessage(
    message_id="run/0/q/caption/0",
    job_id="run",
    query_id="q",
    reply_to="xr:reply:run",
    body=skills.CaptionImages(gallery="g", rows=(0, 1)),
)


def messages(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Any record of a kind, fields drawn from their annotations."""
    hints = typing.get_type_hints(kind)
    fields = {name: values(hints[name]) for name in kind.__struct_fields__}
    if "schema_version" in fields:
        fields["schema_version"] = st.just(1)
    return st.builds(kind, **fields)


def values(hint: Any) -> st.SearchStrategy[Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return st.deferred(lambda: messages(hint))
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=3)
    if arguments:
        return st.one_of([values(argument) for argument in arguments])
    plain: dict[Any, st.SearchStrategy[Any]] = {
        str: st.text(max_size=8),
        bytes: st.binary(max_size=8),
        bool: st.booleans(),
        int: st.integers(-(2**63), 2**64 - 1),
        float: st.floats(allow_nan=False),
        type(None): st.none(),
    }
    return plain[hint]


@given(messages(RequestMessage))
def test_every_request_survives_its_bytes(message: RequestMessage) -> None:
    assert decode(encode(message), RequestMessage) == message


@given(messages(ReplyMessage))
def test_every_reply_survives_its_bytes(message: ReplyMessage) -> None:
    assert decode(encode(message), ReplyMessage) == message


@given(st.binary(max_size=200))
def test_random_bytes_are_a_decode_error_and_nothing_else(payload: bytes) -> None:
    with pytest.raises(DecodeError) as raised:
        decode(payload, RequestMessage)
    assert raised.value.payload == payload
    with pytest.raises(DecodeError):
        decode(payload, ReplyMessage)


@given(
    st.lists(st.tuples(st.integers(0, len(encode(CAPTION)) - 1), st.integers(0, 255)), min_size=1)
)
def test_a_message_with_damaged_bytes_is_decoded_or_a_decode_error(
    damage: list[tuple[int, int]],
) -> None:
    payload = bytearray(encode(CAPTION))
    for position, byte in damage:
        payload[position] = byte
    with contextlib.suppress(DecodeError):
        decode(bytes(payload), RequestMessage)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_msgpack_that_is_no_message_is_a_decode_error(value: Any) -> None:
    with pytest.raises(DecodeError):
        decode(msgpack.packb(value), ReplyMessage)


def test_bytes_nested_too_deep_are_a_decode_error() -> None:
    with pytest.raises(DecodeError):
        decode(b"\x91" * 100_000 + b"\x00", RequestMessage)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"schema_version": 2}, "schema version 2"),
        ({"schema_version": None}, "schema version None"),
        ({"attempt": "1"}, "attempt"),
        ({"surprise": 1}, "surprise"),
        ({"body": {"type": "FireTheLasers"}}, "FireTheLasers"),
        ({"body": {"type": "CaptionImages", "gallery": "g"}}, "rows"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], complaint: str) -> None:
    fields = msgpack.unpackb(encode(CAPTION)) | change
    with pytest.raises(DecodeError, match=complaint):
        decode(msgpack.packb(fields), RequestMessage)


def test_a_message_of_another_version_is_told_by_its_version_not_by_its_unknown_fields() -> None:
    fields = msgpack.unpackb(encode(CAPTION)) | {"schema_version": 7, "priority": 3}
    with pytest.raises(DecodeError, match="schema version 7"):
        decode(msgpack.packb(fields), RequestMessage)


def test_a_reply_is_no_request() -> None:
    reply = ReplyMessage(message_id="a", worker="w", body=Failure("x"))
    with pytest.raises(DecodeError):
        decode(encode(reply), RequestMessage)


def test_the_wire_is_plain_msgpack_that_any_language_can_read() -> None:
    assert msgpack.unpackb(encode(CAPTION)) == {
        "message_id": "run/0/q/caption/0",
        "job_id": "run",
        "query_id": "q",
        "reply_to": "xr:reply:run",
        "body": {"type": "CaptionImages", "gallery": "g", "rows": [0, 1]},
        "attempt": 1,
        "deadline_s": None,
        "schema_version": 1,
    }


def test_every_request_body_has_the_agent_that_answers_it() -> None:
    assert set(typing.get_args(skills.Request)) == set(skills.AGENT_OF)
