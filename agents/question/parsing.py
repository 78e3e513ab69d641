"""Turns the question agent's generated JSON into propositions."""

from __future__ import annotations

import re
from typing import Any

from agents.json_answers import json_object, phrase
from shared.contracts.skills import Proposition, QuestionsProposed
from shared.errors import ItemError

_WORD = re.compile(r"[a-z]+")
_ANSWERS = {"yes": True, "true": True, "no": False, "false": False}


def propositions(answer: str, limit: int) -> QuestionsProposed:
    """At most `limit` propositions, in order, without malformed entries and repetitions.

    `parsed` is false when nothing usable was found.
    """
    try:
        listed = json_object(answer).get("propositions")
    except ItemError:
        listed = None
    found: dict[str, Proposition] = {}
    for entry in listed if isinstance(listed, list) else []:
        proposition = _proposition(entry)
        if proposition is not None:
            found.setdefault(proposition.question, proposition)
    return QuestionsProposed(tuple(found.values())[:limit], parsed=bool(found))


def yes_or_no(answer: Any) -> bool | None:
    """The one answer that stands in the text as a whole word; None for neither or both.

    Whole words, because "not" holds no "no" and `bool("False")` is true.
    """
    if isinstance(answer, bool):
        return answer
    words = _WORD.findall(answer.lower()) if isinstance(answer, str) else []
    meant = {_ANSWERS[word] for word in words if word in _ANSWERS}
    return meant.pop() if len(meant) == 1 else None


def _proposition(entry: Any) -> Proposition | None:
    if not isinstance(entry, dict):
        return None
    question, expected = phrase(entry.get("question")), yes_or_no(entry.get("expected"))
    return Proposition(question, expected) if question and expected is not None else None
