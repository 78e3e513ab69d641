"""Dead letters as an operator reads them: bounded, and never an error of their own."""

from __future__ import annotations

from gateway.agent_board import _view
from shared.bus.records import SetAside
from shared.contracts.messages import RequestMessage, encode
from shared.contracts.skills import ImagineText


def letter(payload: bytes) -> SetAside:
    return SetAside(
        entry_id="5-0", payload=payload, job_id="run/1", reason="3 deliveries",
        deliveries=3, stream="xr:imagination:lo", at_s=0.0,
    )  # fmt: skip


def test_a_letter_tells_job_query_skill_and_when_and_cuts_what_is_long() -> None:
    body = ImagineText("x" * 8_000, reference_caption="a cup")
    message = RequestMessage(
        message_id="run/1/q7/imagine_text/0", job_id="run/1", query_id="q7",
        reply_to="xr:reply:run/1", body=body,
    )  # fmt: skip
    view = _view(letter(encode(message)))
    assert (view.job_id, view.query_id, view.skill) == ("run/1", "q7", "ImagineText")
    assert (view.deliveries, view.at) == (3, "1970-01-01T00:00:00+00:00")
    assert view.size_bytes > 8_000
    assert view.message["body"]["modification_text"].endswith("... (8000 characters)")
    assert len(view.model_dump_json()) < 5_000


def test_a_letter_that_cannot_be_decoded_is_shown_as_bytes() -> None:
    view = _view(letter(b"\xc1" * 10_000))
    assert view.skill == ""
    assert "undecodable" in view.message
    assert len(view.message["hex"]) == 400
