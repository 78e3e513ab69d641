"""Human-like wording: synonyms, noun phrases, places, and varied captions of scenes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shared.demo_world.language import NUMBER_WORDS, PLURALS
from shared.demo_world.scene import SLOTS, Group, Scene

_SYNONYMS: Final[dict[str, tuple[str, ...]]] = {
    "small": ("small", "small", "little", "tiny"),
    "large": ("large", "large", "big", "huge"),
    "plain": ("plain", "plain", "solid", "unpatterned"),
    "striped": ("striped", "striped", "stripy"),
    "dotted": ("dotted", "dotted", "spotted"),
    "purple": ("purple", "purple", "violet"),
    "gray": ("gray", "gray", "grey"),
}
_HEADS: Final[dict[str | None, tuple[tuple[str, str], ...]]] = {
    None: (("thing", "things"), ("thing", "things"), ("object", "objects")),
    **{shape: ((shape, plural),) for shape, plural in PLURALS.items()},
    "circle": (("circle", "circles"), ("circle", "circles"), ("disc", "discs")),
    "cross": (("cross", "crosses"), ("cross", "crosses"), ("plus sign", "plus signs")),
}
_TRAITS: Final = {
    "striped": ("with stripes",),
    "dotted": ("with dots", "with spots"),
    "plain": ("without a pattern",),
}


def _corner(vertical: str, other: str, side: str) -> tuple[tuple[str, str], ...]:
    return (
        ("at", f"the {vertical} {side}"),
        ("in", f"the {vertical} {side} corner"),
        ("in", f"the {other} {side}"),
        ("in", f"the {other} {side} corner"),
    )


_PLACES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "top-left": _corner("top", "upper", "left"),
    "top-right": _corner("top", "upper", "right"),
    "bottom-left": _corner("bottom", "lower", "left"),
    "bottom-right": _corner("bottom", "lower", "right"),
    "top": (
        ("at", "the top center"),
        ("in", "the middle of the top row"),
        ("at", "the top middle"),
    ),
    "bottom": (
        ("at", "the bottom center"),
        ("in", "the middle of the bottom row"),
        ("at", "the bottom middle"),
    ),
    "left": (("at", "the middle left"), ("in", "the middle of the left column"),
             ("at", "the center left")),
    "right": (("at", "the middle right"), ("in", "the middle of the right column"),
              ("at", "the center right")),
    "center": (("in", "the center"), ("in", "the middle"), ("in", "the very middle")),
}  # fmt: skip
_PLACE_ADJECTIVES: Final[dict[str, tuple[str, ...]]] = {
    "top": ("top-middle", "top-center"),
    "bottom": ("bottom-middle", "bottom-center"),
    "left": ("middle-left", "center-left"),
    "right": ("middle-right", "center-right"),
    "center": ("central", "middle"),
    "top-left": ("top-left", "upper-left"),
    "top-right": ("top-right", "upper-right"),
    "bottom-left": ("bottom-left", "lower-left"),
    "bottom-right": ("bottom-right", "lower-right"),
}
_CAPTIONS: Final = (
    "{things} on a {bg} background",
    "{things} on {bg}",
    "{things}",
    "a picture of {things}",
    "an image of {things} on a {bg} background",
    "a photo showing {things}, {bg} background",
    "there {are} {things} on a {bg} background",
    "on a {bg} background there {are} {things}",
    "a {bg} image with {things}",
    "{bg} background with {things}",
    "we see {things}; the background is {bg}",
    "a drawing with {things} in front of a {bg} backdrop",
)


@dataclass(frozen=True, slots=True)
class NounPhrase:
    """A noun phrase without determiner, its words chosen, in both numbers."""

    before: str
    singular: str
    plural: str
    after: str

    def text(self, plural: bool) -> str:
        """The words in one number: "small red stars at the top left"."""
        head = self.plural if plural else self.singular
        return " ".join(part for part in (self.before, head, self.after) if part)


def word(value: str, rng: random.Random) -> str:
    """The value or an unambiguous synonym of it."""
    options = _SYNONYMS.get(value)
    return value if options is None else rng.choice(options)


def shape_noun(shape: str, plural: bool, rng: random.Random) -> str:
    """A noun for the shape in one number: "disc", "hearts"."""
    return rng.choice(_HEADS[shape])[1 if plural else 0]


def with_article(text: str) -> str:
    """The text after "a" or "an"."""
    return f"an {text}" if text[0] in "aeiou" else f"a {text}"


def place(position: str, rng: random.Random) -> tuple[str, str]:
    """(preposition, place) for a cell: ("in", "the upper left corner")."""
    return rng.choice(_PLACES[position])


def noun_phrase(named: Group, rng: random.Random) -> NounPhrase:
    """The set slots of a partial group, except the count, as a noun phrase."""
    before: list[str] = []
    after: list[str] = []
    if named.position is not None:
        if rng.random() < 0.2:
            before.append(rng.choice(_PLACE_ADJECTIVES[named.position]))
        else:
            after.append(" ".join(place(named.position, rng)))
    if named.size is not None:
        before.append(word(named.size, rng))
    adjectives = []
    if named.texture is not None:
        if rng.random() < 0.2:
            after.insert(0, rng.choice(_TRAITS[named.texture]))
        else:
            adjectives.append(word(named.texture, rng))
    if named.colour is not None:
        adjectives.insert(len(adjectives) if rng.random() < 0.75 else 0, word(named.colour, rng))
    singular, plural = rng.choice(_HEADS[named.shape])
    return NounPhrase(" ".join(before + adjectives), singular, plural, " ".join(after))


def counted(noun: NounPhrase, count: int, rng: random.Random) -> str:
    """The noun phrase after its number: "a red star", "two red stars", "a pair of red stars"."""
    if count == 1:
        text = noun.text(plural=False)
        return with_article(text) if rng.random() < 0.75 else f"one {text}"
    text = noun.text(plural=True)
    if count == 2 and rng.random() < 0.15:
        return f"a pair of {text}"
    return f"{NUMBER_WORDS[count]} {text}"


def numbered(named: Group, rng: random.Random) -> str:
    """The whole partial group with its number (none set: one), as an indefinite phrase."""
    return counted(noun_phrase(named, rng), named.count or 1, rng)


def listing(parts: Sequence[str], rng: random.Random) -> str:
    """The parts joined as people do: "A, B and C"."""
    if len(parts) == 1:
        return parts[0]
    if rng.random() < 0.2:
        return ", ".join(parts)
    return ", ".join(parts[:-1]) + rng.choice((" and ", " and ", ", and ")) + parts[-1]


def human_caption(scene: Scene, rng: random.Random) -> str:
    """A varied sentence on the scene: synonyms, free order, attributes left out at random.

    All it says is true; it may leave out attributes and the background, but names every group.
    """
    keep = rng.choice((0.45, 0.75, 1.0))
    parts = []
    order = rng.sample(scene.groups, len(scene.groups))
    for group in order:
        slots = tuple(
            slot
            for slot in SLOTS
            if rng.random() < keep or (slot == "shape" and rng.random() < 0.85)
        )
        parts.append(counted(noun_phrase(group.only(slots), rng), group.count or 1, rng))
    text = rng.choice(_CAPTIONS).format(
        things=listing(parts, rng),
        bg=word(scene.background, rng),
        are="is" if order[0].count == 1 else "are",
    )
    if rng.random() < 0.3:
        text = text[0].upper() + text[1:] + "."
    return text
