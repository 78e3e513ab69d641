"""What a modification's target must show and must not show, as lists of phrases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from shared.demo_world.edits import Edit, background_of, explicit_edits, target_groups
from shared.demo_world.modification import Modification
from shared.demo_world.propositions import might_exist

LIMIT: Final = 3


def existent(modification: Modification) -> tuple[str, ...]:
    """At most three phrases of added and changed things, in the order of the edits."""
    return existent_of(modification.edits)


def nonexistent(modification: Modification) -> tuple[str, ...]:
    """At most three phrases of removed things and former states, in the order of the edits.

    Those that another group of the target may match are left out.
    """
    return nonexistent_of(modification.edits)


def existent_of(edits: Sequence[Edit]) -> tuple[str, ...]:
    """`existent` from the edits alone."""
    phrases = [edit.present for edit in explicit_edits(edits) if edit.present is not None]
    return tuple(dict.fromkeys(phrases))[:LIMIT]


def nonexistent_of(edits: Sequence[Edit]) -> tuple[str, ...]:
    """`nonexistent` from the edits alone; ValueError if a phrase is not canonical."""
    groups = target_groups(edits)
    phrases = [
        edit.former
        for edit in explicit_edits(edits)
        if edit.former is not None
        and (background_of(edit.former) is not None or not might_exist(edit.former, groups))
    ]
    return tuple(dict.fromkeys(phrases))[:LIMIT]
