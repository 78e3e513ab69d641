"""Scenes of the demo world: their vocabulary, groups, and the specification of a target."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

COUNTS: Final = (1, 2, 3)
SIZES: Final = ("small", "large")
TEXTURES: Final = ("plain", "striped", "dotted")
COLOURS: Final = ("red", "green", "blue", "yellow", "orange", "purple", "turquoise", "brown")
SHAPES: Final = ("circle", "square", "triangle", "star", "cross", "heart")
POSITIONS: Final = (
    "top-left", "top", "top-right",
    "left", "center", "right",
    "bottom-left", "bottom", "bottom-right",
)  # fmt: skip
BACKGROUNDS: Final = ("white", "gray", "black", "pink", "beige")
SLOTS: Final = ("count", "size", "texture", "colour", "shape", "position")
MAX_GROUPS: Final = 4
POSITION_INDEX: Final[Mapping[str | None, int]] = MappingProxyType(
    {**{name: index for index, name in enumerate(POSITIONS)}, None: len(POSITIONS)}
)
SLOT_VALUES: Final[Mapping[str, tuple[int | str, ...]]] = MappingProxyType(
    {
        "count": COUNTS,
        "size": SIZES,
        "texture": TEXTURES,
        "colour": COLOURS,
        "shape": SHAPES,
        "position": POSITIONS,
    }
)


@dataclass(frozen=True, slots=True)
class Group:
    """One to three equal things in one cell; a slot that is None is unspecified ("partial")."""

    count: int | None = None
    size: str | None = None
    texture: str | None = None
    colour: str | None = None
    shape: str | None = None
    position: str | None = None

    def values(self) -> tuple[int | str | None, ...]:
        """The six values in the order of `SLOTS`."""
        return (self.count, self.size, self.texture, self.colour, self.shape, self.position)

    def get(self, slot: str) -> int | str | None:
        """The value of one of `SLOTS`; KeyError for another name."""
        if slot not in SLOT_VALUES:
            raise KeyError(slot)
        value: int | str | None = getattr(self, slot)
        return value

    def named(self) -> tuple[str, ...]:
        """The names of the slots that are set, in the order of `SLOTS`."""
        return tuple(slot for slot, value in zip(SLOTS, self.values(), strict=True)
                     if value is not None)  # fmt: skip

    def with_value(self, slot: str, value: int | str | None) -> Group:
        """The same group with one slot replaced; KeyError or ValueError if that is not legal."""
        if value is not None and value not in SLOT_VALUES[slot]:
            raise ValueError(f"{value!r} is no {slot}")
        return replace(self, **{slot: value})  # type: ignore[arg-type]

    def only(self, slots: tuple[str, ...]) -> Group:
        """The partial group that keeps the given slots alone."""
        return Group(**{slot: getattr(self, slot) for slot in slots})

    @property
    def complete(self) -> bool:
        """True if no slot is None."""
        return None not in self.values()


def by_position(groups: tuple[Group, ...]) -> tuple[Group, ...]:
    """The groups in reading order of their cells, those without a position last (stable)."""
    return tuple(sorted(groups, key=lambda group: POSITION_INDEX[group.position]))


@dataclass(frozen=True, slots=True)
class Scene:
    """One to four complete groups in distinct cells, held in reading order, on a background.

    Raises ValueError if a group is partial, cells repeat, or a value is not in the vocabulary.
    """

    groups: tuple[Group, ...]
    background: str

    def __post_init__(self) -> None:
        if not 1 <= len(self.groups) <= MAX_GROUPS:
            raise ValueError(f"a scene has 1..{MAX_GROUPS} groups, not {len(self.groups)}")
        if self.background not in BACKGROUNDS:
            raise ValueError(f"{self.background!r} is no background")
        for group in self.groups:
            if not group.complete:
                raise ValueError(f"a scene's groups are complete, not {group}")
        if len({group.position for group in self.groups}) != len(self.groups):
            raise ValueError("two groups of a scene share a cell")
        object.__setattr__(self, "groups", by_position(self.groups))


def matches(partial: Group, group: Group) -> bool:
    """True if every slot that `partial` sets has the same value in `group`."""
    return (
        (partial.shape is None or partial.shape == group.shape)
        and (partial.colour is None or partial.colour == group.colour)
        and (partial.position is None or partial.position == group.position)
        and (partial.size is None or partial.size == group.size)
        and (partial.texture is None or partial.texture == group.texture)
        and (partial.count is None or partial.count == group.count)
    )


def compatible(one: Group, other: Group) -> bool:
    """True if some complete group could match both partial groups."""
    return all(
        a is None or b is None or a == b
        for a, b in zip(one.values(), other.values(), strict=True)
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """What a target must be: one partial per group, and the background (None: any)."""

    groups: tuple[Group, ...]
    background: str | None

    @property
    def complete(self) -> bool:
        """True if exactly one scene satisfies it."""
        return self.background is not None and all(group.complete for group in self.groups)

    def satisfied_by(self, scene: Scene) -> bool:
        """True if backgrounds agree and a bijection of the scene's groups to partials exists."""
        if self.background is not None and self.background != scene.background:
            return False
        return len(self.groups) == len(scene.groups) and _assign(self.groups, scene.groups)


def _assign(partials: tuple[Group, ...], groups: tuple[Group, ...]) -> bool:
    """True if each partial can have a group of its own (backtracking; at most 4! orders)."""
    if not partials:
        return True
    first, rest = partials[0], partials[1:]
    return any(
        matches(first, group) and _assign(rest, groups[:index] + groups[index + 1 :])
        for index, group in enumerate(groups)
    )


def random_group(rng: random.Random, position: str) -> Group:
    """A random complete group in the given cell; single things are as likely as 2 or 3."""
    return Group(
        rng.choice((1, 1, 2, 3)),
        rng.choice(SIZES),
        rng.choice(TEXTURES),
        rng.choice(COLOURS),
        rng.choice(SHAPES),
        position,
    )


def random_scene(rng: random.Random, n_groups: int | None = None) -> Scene:
    """A random scene of `n_groups` (None: 1..4, more of them likelier).

    Later groups take over about a third of the attributes of earlier ones, so that telling
    groups apart needs to know which attributes belong together.
    """
    number = rng.choice((1, 2, 2, 3, 3, 3, 4, 4, 4)) if n_groups is None else n_groups
    groups: list[Group] = []
    for position in rng.sample(POSITIONS, number):
        group = random_group(rng, position)
        if groups:
            model = rng.choice(groups)
            shared = [slot for slot in SLOTS[:5] if rng.random() < 0.35]
            group = replace(group, **{slot: getattr(model, slot) for slot in shared})
        groups.append(group)
    return Scene(tuple(groups), rng.choice(BACKGROUNDS))
