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
from shared.errors import DecodeError, NewerVersionError
from tests.fuzz.records import records

CAPTION = RequestMessage(
    message_id="run/0/q/caption/0",
    job_id="run",
    query_id="q",
    reply_to="xr:reply:run",
    body=skills.CaptionImages(gallery="g", rows=(0, 1)),
)


@given(records(RequestMessage))
def test_every_request_survives_its_bytes(message: RequestMessage) -> None:
    assert decode(encode(message), RequestMessage) == message


@given(records(ReplyMessage))
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
        ({"schema_version": None}, "schema version None"),
        ({"schema_version": 0}, "schema version 0"),
        ({"schema_version": True}, "schema version True"),
        ({"attempt": "1"}, "attempt"),
        ({"body": {"type": "FireTheLasers"}}, "FireTheLasers"),
        ({"body": {"type": "CaptionImages", "gallery": "g"}}, "rows"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], complaint: str) -> None:
    fields = msgpack.unpackb(encode(CAPTION)) | change
    with pytest.raises(DecodeError, match=complaint):
        decode(msgpack.packb(fields), RequestMessage)


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 7, "priority": 3},
        {"schema_version": 2, "body": {"type": "FireTheLasers"}},
        {"schema_version": 3, "job_id": ["a", "list"]},
    ],
)
def test_a_message_of_a_newer_version_is_told_by_its_version_whatever_it_holds(
    change: dict[str, Any],
) -> None:
    payload = msgpack.packb(msgpack.unpackb(encode(CAPTION)) | change)
    with pytest.raises(NewerVersionError, match="reads up to 1") as raised:
        decode(payload, RequestMessage)
    assert raised.value.version == change["schema_version"]
    assert raised.value.payload == payload


def test_a_reader_of_the_newer_version_reads_it() -> None:
    newer = msgspec.structs.replace(CAPTION, schema_version=2)
    assert decode(encode(newer), RequestMessage, known=2) == newer
    assert decode(encode(CAPTION), RequestMessage, known=2) == CAPTION


def test_fields_that_a_later_program_of_the_same_version_adds_are_ignored() -> None:
    fields = msgpack.unpackb(encode(CAPTION)) | {"surprise": 1}
    fields["body"]["detail"] = "high"
    assert decode(msgpack.packb(fields), RequestMessage) == CAPTION
    answer = ReplyMessage(
        message_id="a", worker="w", body=skills.ImagesCaptioned((skills.Caption("x"),))
    )
    reply = msgpack.unpackb(encode(answer))
    reply["body"]["results"][0]["score"] = 0.5
    assert decode(msgpack.packb(reply), ReplyMessage) == answer


def test_fields_that_an_earlier_program_did_not_know_have_defaults() -> None:
    fields = msgpack.unpackb(encode(CAPTION))
    for added in ("attempt", "expires_after_s", "schema_version"):
        del fields[added]
    assert decode(msgpack.packb(fields), RequestMessage) == CAPTION


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
        "expires_after_s": None,
        "schema_version": 1,
    }


def test_every_request_body_has_the_agent_that_answers_it() -> None:
    assert set(typing.get_args(skills.Request)) == set(skills.AGENT_OF)
