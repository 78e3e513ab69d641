"""Yes/no questions on scenes: the canonical form, the oracle, training draws, and the teacher."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from shared.demo_world.edits import RETAIN, Edit, background_of, explicit_edits, target_groups
from shared.demo_world.language import parse_phrase, phrase
from shared.demo_world.modification import Modification
from shared.demo_world.phrasing import with_article
from shared.demo_world.scene import (
    BACKGROUNDS,
    SLOT_VALUES,
    SLOTS,
    Group,
    Scene,
    compatible,
    matches,
)

_BACKGROUND_SHARE: Final = 0.12
_BINDING_SHARE: Final = 0.4
_TRIES: Final = 30
_BACKGROUND_QUESTIONS: Final = {f"Is the background {name}?": name for name in BACKGROUNDS}


def question(group: Group) -> str:
    """The canonical question whether a group exists that matches all slots named.

    "Is there one large plain blue circle at center?", "Are there two striped stars?", and
    without a count "Is there a red thing at top-left?".
    """
    text = phrase(group)
    if group.count is None:
        return f"Is there {with_article(text)}?"
    return f"{'Is' if group.count == 1 else 'Are'} there {text}?"


def background_question(background: str) -> str:
    """The canonical question on the background; ValueError for an unknown one."""
    text = f"Is the background {background}?"
    if text not in _BACKGROUND_QUESTIONS:
        raise ValueError(f"{background!r} is no background")
    return text


def parse_question(question_text: str) -> Group | str:
    """The partial group asked for, or the background; ValueError if it is not canonical."""
    if question_text in _BACKGROUND_QUESTIONS:
        return _BACKGROUND_QUESTIONS[question_text]
    for opening in ("Is there an ", "Is there a ", "Is there ", "Are there "):
        if question_text.startswith(opening) and question_text.endswith("?"):
            group = parse_phrase(question_text[len(opening) : -1])
            if question(group) == question_text:
                return group
            break
    raise ValueError(f"not a canonical question: {question_text!r}")


def ask(question_text: str, scene: Scene) -> bool:
    """The true answer to a canonical question; ValueError for any other text."""
    asked = parse_question(question_text)
    if isinstance(asked, str):
        return asked == scene.background
    return any(matches(asked, group) for group in scene.groups)


def random_question(scene: Scene, rng: random.Random, want: bool | None = None) -> tuple[str, bool]:
    """A canonical question and its true answer, yes and no equally likely unless `want` says.

    One to six slots are named. False ones are near misses: one slot changed, or the slots of
    two groups recombined.
    """
    answer = rng.random() < 0.5 if want is None else want
    if rng.random() >= _BACKGROUND_SHARE:
        for _ in range(_TRIES):
            asked = _asked(scene, rng, answer)
            if any(matches(asked, group) for group in scene.groups) == answer:
                return question(asked), answer
    others = [name for name in BACKGROUNDS if name != scene.background]
    return background_question(scene.background if answer else rng.choice(others)), answer


def _asked(scene: Scene, rng: random.Random, answer: bool) -> Group:
    """A partial group that matches (True) or nearly matches (False) a group of the scene."""
    group = rng.choice(scene.groups)
    slots = rng.sample(SLOTS, rng.choice((1, 2, 2, 3, 3, 4, 4, 5, 6, 6)))
    asked = group.only(tuple(slots))
    if answer:
        return asked
    if len(slots) > 1 and len(scene.groups) > 1 and rng.random() < _BINDING_SHARE:
        other = rng.choice([candidate for candidate in scene.groups if candidate != group])
        for slot in slots[: rng.randint(1, len(slots) - 1)]:
            asked = asked.with_value(slot, other.get(slot))
        return asked
    slot = rng.choice(slots)
    old = asked.get(slot)
    return asked.with_value(slot, rng.choice([v for v in SLOT_VALUES[slot] if v != old]))


def propositions(modification: Modification, limit: int = 3) -> tuple[tuple[str, bool], ...]:
    """(question, expected answer) pairs that are true of every scene satisfying the target.

    In order: what each explicit edit makes true (for removals: the subject, expected no), then
    the former state of modified and compared things, expected no, then what is retained. At
    most `limit`; repeated ones and those another group of the target may contradict are left
    out.
    """
    return propositions_of(modification.edits, limit)


def propositions_of(edits: Sequence[Edit], limit: int = 3) -> tuple[tuple[str, bool], ...]:
    """The same from the edits alone; ValueError if one of their phrases is not canonical."""
    explicit = explicit_edits(edits)
    wanted = [
        (edit.subject, False) if edit.present is None else (edit.present, True) for edit in explicit
    ]
    wanted += [
        (edit.former, False)
        for edit in explicit
        if edit.former is not None and edit.present is not None
    ]
    wanted += [(edit.subject, True) for edit in edits if edit.kind == RETAIN]
    groups = target_groups(edits)
    found: dict[str, bool] = {}
    for text, expected in wanted:
        background = background_of(text)
        if background is not None:
            found.setdefault(background_question(background), expected)
        elif expected or not might_exist(text, groups):
            found.setdefault(question(parse_phrase(text)), expected)
    return tuple(found.items())[:limit]


def might_exist(text: str, groups: Sequence[Group]) -> bool:
    """True if one of the (partial) groups may be what the canonical phrase says."""
    asked = parse_phrase(text)
    return any(compatible(asked, group) for group in groups)
