"""Whatever a handler returns, each request gets one reply that can be read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.bus.replying import answers_of_one_length, reply_bytes, salvage
from shared.contracts.messages import Failure, ReplyMessage, decode
from shared.contracts.skills import ImagesCaptioned, TextsEmbedded, Vector


def test_the_right_number_of_answers_passes_unchanged() -> None:
    answers = [Failure("a"), Failure("b")]
    assert answers_of_one_length(answers, 2) is answers


@pytest.mark.parametrize("answers", [[], [Failure("a")], None, {"a": 1, "b": 2}, "ab"])
def test_any_other_number_or_kind_fails_every_request(answers: Any) -> None:
    replaced = answers_of_one_length(answers, 2)
    assert len(replaced) == 2
    assert all(isinstance(answer, Failure) for answer in replaced)


def test_a_result_is_encoded_and_a_failure_is_told_from_it() -> None:
    result = TextsEmbedded(results=(Vector(b"1234"),))
    payload, failed = reply_bytes("a", "w", result)
    assert (decode(payload, ReplyMessage).body, failed) == (result, False)
    payload, failed = reply_bytes("a", "w", Failure("broken"))
    assert (decode(payload, ReplyMessage).body, failed) == (Failure("broken"), True)


@pytest.mark.parametrize("answer", [None, "Yes", 3, ValueError("x")])
def test_an_answer_that_is_none_becomes_a_failure(answer: Any) -> None:
    payload, failed = reply_bytes("a", "w", answer)
    body = decode(payload, ReplyMessage).body
    assert failed
    assert isinstance(body, Failure)
    assert type(answer).__name__ in body.reason


def test_an_answer_that_cannot_be_encoded_becomes_a_failure() -> None:
    payload, failed = reply_bytes("a", "w", ImagesCaptioned(results=(object(),)))  # type: ignore[arg-type]
    body = decode(payload, ReplyMessage).body
    assert failed
    assert isinstance(body, Failure)
    assert "cannot be encoded" in body.reason


@given(st.binary(max_size=100))
def test_salvaging_random_bytes_never_raises(payload: bytes) -> None:
    salvage(payload)


def test_a_sender_is_found_in_a_message_whose_other_fields_are_wrong() -> None:
    payload = msgspec.msgpack.encode({"message_id": "a", "reply_to": "xr:reply:x", "body": 3})
    assert salvage(payload) == ("a", "xr:reply:x")
    assert salvage(msgspec.msgpack.encode({"message_id": "a"})) is None
    assert salvage(msgspec.msgpack.encode([1, 2])) is None
    assert salvage(b"\x91" * 10_000) is None
