"""Modifications of scenes: a human-like text, the edits it asks for, and the target it describes.

`modify` draws one; `realise` makes a target scene of a specification.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from shared.demo_world.composition import compose
from shared.demo_world.draft import Draft
from shared.demo_world.edits import RETAIN, Edit, explicit_edits
from shared.demo_world.language import background_phrase, caption, phrase
from shared.demo_world.operations import draw_draft
from shared.demo_world.scene import (
    BACKGROUNDS,
    POSITIONS,
    SLOT_VALUES,
    SLOTS,
    Scene,
    TargetSpec,
    by_position,
)
from shared.demo_world.wordings import DESCRIPTIVE, IMPERATIVE, WISH

_TRIES: Final = 200
_STYLES: Final = (IMPERATIVE, IMPERATIVE, IMPERATIVE, DESCRIPTIVE, DESCRIPTIVE, WISH)


@dataclass(frozen=True, slots=True)
class Modification:
    """What a user asks for, with the answers that a model is taught.

    `edits` are the explicit ones in text order, then the retain ones in position order, the
    background last. `core` is the new and changed groups as far as the text names them (what
    is gone, as "no ...", only where there are none), `enhanced` the same with all attributes
    of the reference, `comprehensive` the whole target; all end like captions. `operations`
    names the wordings of the clauses, in text order.
    """

    text: str
    edits: tuple[Edit, ...]
    target: TargetSpec
    core: str
    enhanced: str
    comprehensive: str
    operations: tuple[str, ...]

    @property
    def level(self) -> int:
        """The number of explicit edits."""
        return len(explicit_edits(self.edits))


def modify(scene: Scene, rng: random.Random, n_edits: int | None = None) -> Modification:
    """A random modification of a scene with `n_edits` explicit edits (1..3; None: random).

    The edits are on distinct groups, their wording refers uniquely, and the reference itself
    never satisfies the target. Raises ValueError for another number of edits.
    """
    if n_edits is not None and not 1 <= n_edits <= 3:
        raise ValueError(f"n_edits must be 1..3, not {n_edits}")
    wanted = rng.choice((1, 1, 1, 2, 2, 3)) if n_edits is None else n_edits
    for _ in range(_TRIES):
        draft = Draft(scene, rng, rng.choice(_STYLES))
        if draw_draft(draft, wanted):
            modification = _finish(draft)
            if not modification.target.satisfied_by(scene):
                return modification
    raise AssertionError(f"no modification with {wanted} edits found for {caption(scene)}")


def realise(spec: TargetSpec, rng: random.Random) -> Scene:
    """A scene that satisfies the specification, what it leaves open filled at random."""
    free = [cell for cell in POSITIONS if all(group.position != cell for group in spec.groups)]
    rng.shuffle(free)
    groups = []
    for group in spec.groups:
        filled = group
        for slot in SLOTS:
            if filled.get(slot) is None:
                value = free.pop() if slot == "position" else rng.choice(SLOT_VALUES[slot])
                filled = filled.with_value(slot, value)
        groups.append(filled)
    return Scene(tuple(groups), spec.background or rng.choice(BACKGROUNDS))


def _finish(draft: Draft) -> Modification:
    """Words a complete draft and derives its captions."""
    scene = draft.scene
    kept = [group for index, group in enumerate(scene.groups) if index not in draft.touched]
    spec = TargetSpec(
        by_position((*kept, *draft.new_groups())), draft.background or scene.background
    )
    edits = [*draft.edits, *(Edit(RETAIN, phrase(group), "same") for group in kept)]
    if draft.background is None:
        edits.append(Edit(RETAIN, background_phrase(scene.background), "same"))
    return Modification(
        compose(draft),
        tuple(edits),
        spec,
        _short(draft, draft.core, draft.absent_core),
        _short(draft, draft.enhanced, draft.absent_enhanced),
        caption(spec),
        tuple(draft.operations),
    )


def _short(draft: Draft, present: list[str], absent: list[str]) -> str:
    """A caption of the changes alone."""
    parts = present or [f"no {text}" for text in absent]
    if draft.background is not None:
        parts = [*parts, f"on {draft.background}"]
    return ", ".join(parts) + "."
