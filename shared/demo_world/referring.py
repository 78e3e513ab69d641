"""Referring expressions: noun phrases that pick exactly one group out of a scene."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shared.demo_world.language import NUMBER_WORDS
from shared.demo_world.phrasing import NounPhrase, noun_phrase
from shared.demo_world.scene import Group, compatible

# Repeated entries are likelier; the first of a shuffled handful that is unique is taken, which
# gives minimal and over-complete expressions alike.
_SUBSETS: Final[tuple[tuple[str, ...], ...]] = (
    *[("shape",)] * 5,
    *[("colour", "shape")] * 6,
    ("colour",),
    ("texture",),
    ("size",),
    ("position",),
    ("position",),
    ("size", "shape"),
    ("texture", "shape"),
    ("texture", "colour"),
    ("count", "shape"),
    ("count", "colour", "shape"),
    ("size", "colour"),
    ("size", "colour", "shape"),
    ("size", "colour", "shape"),
    ("texture", "colour", "shape"),
    ("size", "texture", "shape"),
    ("shape", "position"),
    ("shape", "position"),
    ("colour", "position"),
    ("colour", "shape", "position"),
    ("colour", "shape", "position"),
    ("size", "texture", "colour", "shape"),
    ("count", "size", "texture", "colour", "shape"),
    ("size", "texture", "colour", "shape", "position"),
)
_TRIES: Final = 8


@dataclass(frozen=True, slots=True)
class Reference:
    """A definite expression for one group: what it names, and the words."""

    named: Group
    noun: NounPhrase
    text: str
    plural: bool

    def bare(self) -> str:
        """The words without determiner in the group's own number."""
        return self.noun.text(self.plural)


def is_unique(named: Group, others: Sequence[Group]) -> bool:
    """True if no other (partial or complete) group could be meant as well."""
    return not any(compatible(named, other) for other in others)


def refer(
    group: Group, others: Sequence[Group], rng: random.Random, *, plain: bool = False
) -> Reference:
    """An expression for `group` that none of `others` fits; its cell must not be in `others`.

    A `plain` one never names the count and is never "it" or "the only ...". Falls back on the
    cell where nothing else is unique, and may say "it" where there are no others.
    """
    plural = (group.count or 1) > 1
    if not others and not plain and rng.random() < 0.3:
        noun = noun_phrase(Group(), rng)
        return Reference(Group(), noun, "them" if plural else "it", plural)
    slots: tuple[str, ...] = ("shape", "position") if rng.random() < 0.6 else ("position",)
    for subset in rng.sample(_SUBSETS, _TRIES):
        if not (plain and "count" in subset) and is_unique(group.only(subset), others):
            slots = subset
            break
    named = group.only(slots)
    noun = noun_phrase(named, rng)
    return Reference(named, noun, _definite(named, noun, group, others, rng, plain), plural)


def _definite(
    named: Group, noun: NounPhrase, group: Group, others: Sequence[Group], rng: random.Random,
    plain: bool,
) -> str:  # fmt: skip
    """The noun phrase with a determiner that says no more than `named` does."""
    count = group.count or 1
    words = noun.text(count > 1)
    slots = named.named()
    if named.count is not None:
        if count == 1:
            return f"the single {words}"
        without = named.with_value("count", None)
        if count == 2 and rng.random() < 0.5 and is_unique(without, others):
            return f"both {words}"
        return f"the {NUMBER_WORDS[count]} {words}"
    if len(slots) == 1 and slots[0] in ("size", "texture", "colour") and not plain:
        return f"the only {words}"
    return f"the {words}"
