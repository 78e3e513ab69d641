"""Operations that add and remove groups or change the background, and the draw of operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from shared.demo_world.changes import (
    loose,
    move,
    other_value,
    recolour,
    recount,
    replace_group,
    reshape,
    resize,
    restyle,
    retexture,
    scale,
    tally,
    untexture,
)
from shared.demo_world.draft import Draft
from shared.demo_world.edits import ADD, MODIFY, Edit
from shared.demo_world.language import background_phrase, phrase
from shared.demo_world.phrasing import noun_phrase, numbered, word
from shared.demo_world.referring import Reference, is_unique
from shared.demo_world.scene import BACKGROUNDS, MAX_GROUPS, Group, compatible, random_group


def add(draft: Draft, room: int) -> None:
    """A new group; its size, texture and cell may be left open."""
    cells, rng = draft.free_cells(), draft.rng
    if draft.alive() >= MAX_GROUPS or not cells:
        return
    slots = ["count", "colour", "shape"]
    keep = rng.choice((0.4, 1.0))
    slots += [slot for slot in ("size", "texture", "position") if rng.random() < keep]
    named = random_group(rng, rng.choice(cells)).only(tuple(slots))
    text = numbered(named, rng)
    if named.position is None and rng.random() < 0.4:
        text += " somewhere"
    draft.added.append(named)
    draft.edits.append(Edit(ADD, phrase(named), "new"))
    draft.core.append(phrase(named))
    draft.enhanced.append(phrase(named))
    draft.say("add", None, {"np": text}, new=named)


def remove(draft: Draft, room: int) -> None:
    """One group goes."""
    index = draft.pick()
    if index is None or draft.alive() < 2:
        return
    reference = draft.refer(index)
    draft.drop(index, reference.named)
    draft.say("remove", reference, {})


def remove_all(draft: Draft, room: int) -> None:
    """Two or more groups that share an attribute go together."""
    groups, rng = draft.scene.groups, draft.rng
    slots = rng.choice((("shape",), ("shape",), ("colour",), ("texture",), ("colour", "shape")))
    named = rng.choice(groups).only(slots)
    chosen = [index for index, group in enumerate(groups) if compatible(named, group)]
    if not 2 <= len(chosen) <= room or len(chosen) >= draft.alive():
        return
    if draft.touched.keys() & set(chosen) or not is_unique(named, draft.new_groups()):
        return
    for index in chosen:
        draft.drop(index, Group())
    draft.absent_core = [phrase(named)]
    noun = noun_phrase(named, rng)
    reference = Reference(named, noun, f"the {noun.text(plural=True)}", plural=True)
    draft.say("remove_all", reference, {})


def keep_only(draft: Draft, room: int) -> None:
    """All groups but one go; a modification of its own."""
    groups = draft.scene.groups
    if draft.edits or len(groups) != room + 1:
        return
    index = draft.rng.randrange(len(groups))
    reference = draft.refer(index)
    for other in range(len(groups)):
        if other != index:
            draft.drop(other, Group())
    draft.core = [phrase(reference.named)]
    draft.enhanced = [phrase(groups[index])]
    draft.say("keep_only", reference, {})


def background(draft: Draft, room: int) -> None:
    """Another background."""
    if draft.background is not None:
        return
    old, rng = draft.scene.background, draft.rng
    draft.background = other_value(BACKGROUNDS, old, rng)
    new = draft.background
    draft.edits.append(Edit(MODIFY, background_phrase(old), background_phrase(new)))
    draft.say("background", None, {"bg": word(new, rng), "obg": word(old, rng)})


Operation = Callable[[Draft, int], None]
WEIGHTS: Final[dict[Operation, int]] = {
    add: 5, remove: 4, remove_all: 12, keep_only: 6, recolour: 4, restyle: 1, resize: 2, scale: 2,
    retexture: 2, untexture: 2, reshape: 3, replace_group: 2, recount: 2, tally: 2, move: 4,
    background: 4, loose: 2,
}  # fmt: skip
_WEIGHTED: Final = tuple(op for op, weight in WEIGHTS.items() for _ in range(weight))
_BUDGET: Final = 14


def draw_draft(draft: Draft, wanted: int) -> bool:
    """Applies random operations until there are `wanted` explicit edits; False if it failed.

    An operation gets the draft and how many more edits there is room for (at least 1), and
    leaves the draft as it is where it does not fit.
    """
    for _ in range(_BUDGET):
        draft.rng.choice(_WEIGHTED)(draft, wanted - len(draft.edits))
        if len(draft.edits) == wanted:
            return True
    return False
