"""Edits: what a modification adds, removes, modifies, compares and retains, as phrases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shared.demo_world.language import background_phrase, parse_phrase
from shared.demo_world.scene import BACKGROUNDS, Group

ADD: Final = "add"
REMOVE: Final = "remove"
MODIFY: Final = "modify"
COMPARE: Final = "compare"
RETAIN: Final = "retain"
EDIT_KINDS: Final = (ADD, REMOVE, MODIFY, COMPARE, RETAIN)
_BACKGROUND_OF: Final = {background_phrase(name): name for name in BACKGROUNDS}


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit in canonical phrases.

    add: subject = the new phrase, change = "new". remove: subject = the reference's phrase,
    change = "gone". modify, compare: subject = the reference's phrase, change = the target's.
    retain: subject = the phrase of both, change = "same". Backgrounds read "white background".
    """

    kind: str
    subject: str
    change: str

    @property
    def present(self) -> str | None:
        """The phrase that is true of the target because of this edit; None for remove."""
        if self.kind in (ADD, RETAIN):
            return self.subject
        return None if self.kind == REMOVE else self.change

    @property
    def former(self) -> str | None:
        """The phrase of the reference that this edit ends; None for add and retain."""
        return None if self.kind in (ADD, RETAIN) else self.subject


def background_of(phrase: str) -> str | None:
    """The background that a phrase such as "white background" names, else None."""
    return _BACKGROUND_OF.get(phrase)


def explicit_edits(edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """The edits that change something, in their order."""
    return tuple(edit for edit in edits if edit.kind != RETAIN)


def target_groups(edits: Sequence[Edit]) -> tuple[Group, ...]:
    """The partial groups of the target, in the order of the edits.

    Raises ValueError if a phrase is not canonical.
    """
    phrases = (edit.present for edit in edits)
    return tuple(
        parse_phrase(text) for text in phrases if text is not None and background_of(text) is None
    )
