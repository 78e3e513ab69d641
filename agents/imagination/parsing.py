"""Turns the imagination agent's generated JSON into records."""

from __future__ import annotations

from typing import Any, get_args

from agents.json_answers import json_object, phrase, phrases
from shared.contracts.skills import Edit, EditKind, ImageImagined, TextImagined
from shared.errors import ItemError

_KINDS = frozenset(get_args(EditKind))


def text_imagination(answer: str, fallback: str) -> TextImagined:
    """M_t and C_t: core, enhanced, comprehensive, exact repetitions dropped, order kept.

    Malformed edits are left out. Without a single target caption the answer is unusable: C_t is
    then `fallback` alone (T_m, in a dialogue after the description so far) and `parsed` says so.
    """
    try:
        fields = json_object(answer)
    except ItemError:
        fields = {}
    captions = phrases([fields.get(name) for name in ("core", "enhanced", "comprehensive")])
    if not captions:
        return TextImagined(edits=(), captions=(fallback,), parsed=False)
    listed = fields.get("edits")
    edits = [_edit(entry) for entry in listed] if isinstance(listed, list) else []
    return TextImagined(tuple(edit for edit in edits if edit is not None), captions)


def image_imagination(answer: str, modification_text: str) -> ImageImagined:
    """M_v and C_v. Without a caption it is unusable: C_v falls back to the modification text."""
    try:
        fields = json_object(answer)
    except ItemError:
        fields = {}
    caption = phrase(fields.get("caption"))
    if not caption:
        return ImageImagined((), (), modification_text, parsed=False)
    return ImageImagined(
        phrases(fields.get("existent")), phrases(fields.get("nonexistent")), caption
    )


def _edit(entry: Any) -> Edit | None:
    """None where the entry is no edit of a known kind with a subject and a change."""
    if not isinstance(entry, dict):
        return None
    kind = phrase(entry.get("kind")).lower()
    subject, change = phrase(entry.get("subject")), phrase(entry.get("change"))
    if kind not in _KINDS or not subject or not change:
        return None
    return Edit(kind, subject, change)  # type: ignore[arg-type]  # checked against the literals above
