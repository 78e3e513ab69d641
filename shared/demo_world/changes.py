"""Operations that change one group: each alters a draft and words the change."""

from __future__ import annotations

import random
from typing import Final

from shared.demo_world.draft import Draft
from shared.demo_world.edits import COMPARE, MODIFY
from shared.demo_world.language import NUMBER_WORDS
from shared.demo_world.phrasing import numbered, place, shape_noun, with_article, word
from shared.demo_world.referring import Reference
from shared.demo_world.scene import (
    COLOURS,
    SHAPES,
    SIZES,
    SLOT_VALUES,
    TEXTURES,
    compatible,
    random_group,
)

_MARKS: Final = {"striped": ("stripes",), "dotted": ("dots", "spots")}
_LOOSE: Final = {
    "size": (", any size will do", ", in any size", ", the size does not matter"),
    "texture": (", any pattern will do", ", the pattern does not matter"),
    "count": (", any number will do", ", no matter how many"),
}


def other_value(values: tuple[str, ...], old: str | None, rng: random.Random) -> str:
    """A value that differs from the old one."""
    return rng.choice([value for value in values if value != old])


def _change(
    draft: Draft, wording: str, slot: str, value: str | int, reference: Reference, index: int,
    *, kind: str = MODIFY, **fields: str,
) -> None:  # fmt: skip
    """Sets one slot of one group and words it."""
    new = draft.scene.groups[index].with_value(slot, value)
    named = reference.named.with_value(slot, value)
    draft.alter(index, new, named, kind)
    draft.say(wording, reference, fields)


def _adjective(draft: Draft, wording: str, slot: str, values: tuple[str, ...]) -> None:
    """Gives a group another value of a slot that reads as an adjective."""
    index = draft.pick()
    if index is None:
        return
    old = str(draft.scene.groups[index].get(slot))
    new = other_value(values, old, draft.rng)
    reference = draft.refer(index)
    _change(draft, wording, slot, new, reference, index,
            v=word(new, draft.rng), old=word(old, draft.rng))  # fmt: skip


def recolour(draft: Draft, room: int) -> None:
    """Another colour."""
    _adjective(draft, "recolour", "colour", COLOURS)


def resize(draft: Draft, room: int) -> None:
    """The other size, named."""
    _adjective(draft, "resize", "size", SIZES)


def retexture(draft: Draft, room: int) -> None:
    """Another texture, named."""
    _adjective(draft, "retexture", "texture", TEXTURES)


def untexture(draft: Draft, room: int) -> None:
    """A striped or dotted group becomes plain, worded as a negation."""
    index = draft.pick(lambda group: group.texture != "plain")
    if index is None:
        return
    old = draft.scene.groups[index].texture or "striped"
    _change(draft, "untexture", "texture", "plain", draft.refer(index), index,
            old=word(old, draft.rng), marks=draft.rng.choice(_MARKS[old]))  # fmt: skip


def scale(draft: Draft, room: int) -> None:
    """The other size, worded as a comparison."""
    index = draft.pick()
    if index is None:
        return
    grow = draft.scene.groups[index].size == "small"
    _change(draft, "enlarge" if grow else "shrink", "size", "large" if grow else "small",
            draft.refer(index), index, kind=COMPARE)  # fmt: skip


def restyle(draft: Draft, room: int) -> None:
    """Two of size, texture and colour at once."""
    index = draft.pick()
    if index is None:
        return
    group, rng = draft.scene.groups[index], draft.rng
    slots = rng.choice((("size", "texture"), ("size", "colour"), ("texture", "colour")))
    reference = draft.refer(index)
    new, named, words = group, reference.named, []
    for slot in slots:
        value = rng.choice([v for v in SLOT_VALUES[slot] if v != group.get(slot)])
        new, named = new.with_value(slot, value), named.with_value(slot, value)
        words.append(word(str(value), rng))
    draft.alter(index, new, named, MODIFY)
    draft.say("restyle", reference, {"v": " and ".join(words)})


def loose(draft: Draft, room: int) -> None:
    """Another colour with one other attribute explicitly left open; a modification of its own."""
    index = draft.pick()
    if index is None or room != 1 or draft.edits:
        return
    group, rng = draft.scene.groups[index], draft.rng
    slot = rng.choice(tuple(_LOOSE))
    new = other_value(COLOURS, group.colour, rng)
    reference = draft.refer(index)
    partial = group.with_value("colour", new).with_value(slot, None)
    named = reference.named.with_value("colour", new).with_value(slot, None)
    draft.alter(index, partial, named, MODIFY)
    old = word(group.colour or "", rng)
    draft.say("recolour", reference, {"v": word(new, rng), "old": old}, name="loose")
    draft.clauses[-1] += rng.choice(_LOOSE[slot])


def reshape(draft: Draft, room: int) -> None:
    """Another shape, all else kept."""
    index = draft.pick()
    if index is None:
        return
    group, rng = draft.scene.groups[index], draft.rng
    new = other_value(SHAPES, group.shape, rng)
    plural = group.count != 1
    texts = [shape_noun(shape or "", plural, rng) for shape in (new, group.shape)]
    np, old = texts if plural else [with_article(text) for text in texts]
    _change(draft, "reshape", "shape", new, draft.refer(index), index, v=new, np=np, old=old)


def replace_group(draft: Draft, room: int) -> None:
    """Another group in the same cell; what the text does not name is open."""
    index = draft.pick()
    if index is None:
        return
    group, rng = draft.scene.groups[index], draft.rng
    slots = rng.choice((("count", "colour", "shape"), ("count", "size", "colour", "shape"),
                        ("count", "size", "texture", "colour", "shape")))  # fmt: skip
    named = random_group(rng, "center").only(slots)
    if compatible(named, group):
        return
    reference = draft.refer(index)
    draft.alter(index, named.with_value("position", group.position), named, MODIFY)
    draft.say("replace", reference, {"np": numbered(named, rng)}, new=named)


def recount(draft: Draft, room: int) -> None:
    """Another number of things, named."""
    index = draft.pick()
    if index is None:
        return
    old = draft.scene.groups[index].count or 1
    new = draft.rng.choice([count for count in (1, 2, 3) if count != old])
    reference = draft.refer(index, plain=True)
    _change(draft, "recount", "count", new, reference, index, n=NUMBER_WORDS[new],
            m=NUMBER_WORDS[old], bare_n=reference.noun.text(new > 1),
            are_n="are" if new > 1 else "is")  # fmt: skip


def tally(draft: Draft, room: int) -> None:
    """One or two more or fewer things, worded as a comparison."""
    index = draft.pick()
    if index is None:
        return
    old = draft.scene.groups[index].count or 1
    new = draft.rng.choice([count for count in (1, 2, 3) if count != old])
    step = abs(new - old)
    reference = draft.refer(index, plain=True)
    _change(draft, "more" if new > old else "fewer", "count", new, reference, index,
            kind=COMPARE, d=NUMBER_WORDS[step], bare_d=reference.noun.text(step > 1),
            are_d="are" if step > 1 else "is", has_d="have" if step > 1 else "has")  # fmt: skip


def move(draft: Draft, room: int) -> None:
    """Another, free cell."""
    index = draft.pick()
    cells = draft.free_cells()
    if index is None or not cells:
        return
    new = draft.rng.choice(cells)
    preposition, where = place(new, draft.rng)
    _change(draft, "move", "position", new, draft.refer(index), index,
            dest=where, loc=f"{preposition} {where}")  # fmt: skip
