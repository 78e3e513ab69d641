"""Scenes that nearly are a query's target: one attribute off, or one edit left undone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

from shared.demo_world.edits import background_of, explicit_edits
from shared.demo_world.language import parse_phrase
from shared.demo_world.modification import Modification
from shared.demo_world.scene import (
    BACKGROUNDS,
    MAX_GROUPS,
    SLOT_VALUES,
    SLOTS,
    Group,
    Scene,
    matches,
)

_TRIES: Final = 200


def one_attribute_off(scene: Scene, rng: random.Random) -> Scene:
    """The scene with one slot of one group, or its background, changed at random."""
    if rng.random() < 0.12:
        names = [name for name in BACKGROUNDS if name != scene.background]
        return Scene(scene.groups, rng.choice(names))
    index = rng.randrange(len(scene.groups))
    group = scene.groups[index]
    slot = rng.choice(SLOTS)
    taken = {other.position for other in scene.groups} if slot == "position" else {group.get(slot)}
    value = rng.choice([value for value in SLOT_VALUES[slot] if value not in taken])
    rest = scene.groups[:index] + scene.groups[index + 1 :]
    return Scene((*rest, group.with_value(slot, value)), scene.background)


def undone(modification: Modification, target: Scene) -> tuple[Scene, ...]:
    """The target with one explicit edit taken back, for each edit where that gives a scene."""
    scenes = []
    for edit in explicit_edits(modification.edits):
        background = background_of(edit.subject)
        if background is not None:
            scenes.append(Scene(target.groups, background))
            continue
        groups = list(target.groups)
        if edit.present is not None:
            new = parse_phrase(edit.present)
            groups.remove(next(group for group in groups if matches(new, group)))
        if edit.former is not None:
            groups.append(parse_phrase(edit.former))
        if _is_legal(groups):
            scenes.append(Scene(tuple(groups), target.background))
    return tuple(scenes)


def _is_legal(groups: list[Group]) -> bool:
    """True if a scene can have these groups."""
    cells = {group.position for group in groups}
    complete = all(group.complete for group in groups)
    return complete and 1 <= len(groups) <= MAX_GROUPS and len(cells) == len(groups)


def distractors(
    reference: Scene, modification: Modification, target: Scene, number: int, rng: random.Random
) -> tuple[Scene, ...]:
    """At most `number` distinct near misses of the target, none of them a true target.

    With several edits the first has one of them undone; all others are one attribute off.
    """
    found: list[Scene] = []
    for scene in _candidates(modification, target, rng):
        if len(found) == number:
            break
        known = scene in found or scene == reference
        if not known and not modification.target.satisfied_by(scene):
            found.append(scene)
    return tuple(found)


def _candidates(modification: Modification, target: Scene, rng: random.Random) -> Iterator[Scene]:
    if modification.level > 1:
        scenes = undone(modification, target)
        if scenes:
            yield rng.choice(scenes)
    for _ in range(_TRIES):
        yield one_attribute_off(target, rng)
