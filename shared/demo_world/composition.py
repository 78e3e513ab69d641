"""Joins the clauses of a draft into one text, with leads, retain clauses and punctuation."""

from __future__ import annotations

from typing import Final

from shared.demo_world.draft import Draft, agreement
from shared.demo_world.wordings import DESCRIPTIVE, IMPERATIVE, WISH

LEADS: Final[dict[str, tuple[str, ...]]] = {
    IMPERATIVE: ("", "", "", "", "please ", "now "),
    DESCRIPTIVE: ("", "", "", "this time ", "the same but "),
    WISH: ("I want ", "I would like ", "I'd like ", "I'd prefer ", "we need "),
}
JOINS: Final[dict[str, tuple[str, ...]]] = {
    IMPERATIVE: (" and ", ", and ", ", then ", " and also ", "; ", ", "),
    DESCRIPTIVE: (" and ", ", and ", "; ", ", "),
    WISH: (" and ", ", and ", ", plus ", " as well as "),
}
KEEP_BEFORE: Final = (
    "keep {r} as {it_is}, but ", "leave {r} alone and ", "keep {r} and ",
    "do not touch {r}, just ",
)  # fmt: skip
KEEP_AFTER: Final = (
    ", but leave {r} as {it_is}", ", keep {r}", " while {s} {stays} the same",
    ", {s} {stays} as {it_is}",
)  # fmt: skip
KEEP_BACKGROUND: Final = (
    ", same background", ", keep the background", " with the same background",
    ", the background stays {obg}",
)  # fmt: skip
KEEP_REST: Final = (
    ", keep everything else", ", everything else stays the same", ", nothing else changes",
    ", the rest as it is",
)  # fmt: skip
_QUESTIONS: Final = ("can you ", "could you please ", "could you ")
_NO_COMMAND: Final = ("no ", "without ", "the ", "both ", "it ", "they ")
_NO_SUBJECT: Final = ("has ", "also ", "does ", "no longer ", "now ")


def compose(draft: Draft) -> str:
    """The clauses joined, with a lead, perhaps what is to be kept, and perhaps punctuation."""
    rng, style = draft.rng, draft.style
    clauses = list(draft.clauses)
    commands = not any(clause.startswith(_NO_COMMAND) for clause in clauses)
    lead = rng.choice(LEADS[style])
    if style == DESCRIPTIVE:
        if lead == "this time " and clauses[0].startswith(_NO_SUBJECT):
            lead = ""
        clauses[1:] = [
            f"the picture {clause}" if clause.startswith(_NO_SUBJECT) else clause
            for clause in clauses[1:]
        ]
    text = clauses[0]
    for clause in clauses[1:]:
        text += rng.choice(JOINS[style][:3] if commands else JOINS[style][:2]) + clause
    question = style == IMPERATIVE and commands and rng.random() < 0.08
    before, after = _keep(draft) if rng.random() < 0.3 and not question else ("", "")
    if question:
        lead = rng.choice(_QUESTIONS)
    elif style == IMPERATIVE and (before or not commands):
        lead = ""
    text = lead + before + text + after
    if question:
        text += "?"
    if rng.random() < 0.3:
        text = text[0].upper() + text[1:]
        text += "" if question else "."
    return text


def _keep(draft: Draft) -> tuple[str, str]:
    """(words before, words after) that ask to keep something that is untouched."""
    rng = draft.rng
    draw = rng.random()
    if "loose" in draft.operations or "keep_only" in draft.operations:
        draw = 0.6 if draft.background is None else 2.0
    index = draft.pick()
    if draw < 0.5 and index is not None:
        fields = agreement(draft.refer(index))
        if draft.style == IMPERATIVE and draw < 0.3:
            return rng.choice(KEEP_BEFORE).format_map(fields), ""
        return "", rng.choice(KEEP_AFTER).format_map(fields)
    if draw < 0.7 and draft.background is None:
        return "", rng.choice(KEEP_BACKGROUND).format(obg=draft.scene.background)
    return "", rng.choice(KEEP_REST) if draw < 1 else ""
