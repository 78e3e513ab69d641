"""Text of the demo world: canonical phrases and captions, reading them back, and attribute F1."""

from __future__ import annotations

import re
from typing import Final

from shared.demo_world.scene import (
    BACKGROUNDS,
    COLOURS,
    POSITIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Group,
    Scene,
    TargetSpec,
)

NUMBER_WORDS: Final = ("zero", "one", "two", "three", "four")
PLURALS: Final = {shape: f"{shape}es" if shape == "cross" else f"{shape}s" for shape in SHAPES}

_SLOT_OF: Final[dict[str, tuple[str, str]]] = {
    **{word: ("count", word) for word in NUMBER_WORDS[1:4]},
    **{word: ("size", word) for word in SIZES},
    **{word: ("texture", word) for word in TEXTURES},
    **{word: ("colour", word) for word in COLOURS},
    **{word: ("shape", word) for word in SHAPES},
    **{plural: ("shape", shape) for shape, plural in PLURALS.items()},
    **{word: ("position", word) for word in POSITIONS},
}
_BACKGROUND_WORDS: Final = frozenset(BACKGROUNDS)
_BREAKS: Final = re.compile(r"[,.;:\n?!]+")
_WORDS: Final = re.compile(r"[a-z]+(?:-[a-z]+)*")


def phrase(group: Group) -> str:
    """A group in the fixed order: count size texture colour shape "at" position.

    Unknown slots are left out, an unknown shape is "thing"; an unknown count reads as singular.
    """
    plural = group.count is not None and group.count > 1
    words = [] if group.count is None else [NUMBER_WORDS[group.count]]
    words += [word for word in (group.size, group.texture, group.colour) if word]
    if group.shape is None:
        words.append("things" if plural else "thing")
    else:
        words.append(PLURALS[group.shape] if plural else group.shape)
    if group.position is not None:
        words += ["at", group.position]
    return " ".join(words)


def background_phrase(background: str) -> str:
    """How edits name a background: "white background"."""
    return f"{background} background"


def caption(scene: Scene | TargetSpec) -> str:
    """The phrases of all groups in their order, then "on <background>" where it is known."""
    parts = [phrase(group) for group in scene.groups]
    if scene.background is not None:
        parts.append(f"on {scene.background}")
    return ", ".join(parts) + "."


def parse_phrase(text: str) -> Group:
    """The partial group that `phrase` writes as `text`; ValueError if there is none."""
    values: dict[str, int | str] = {}
    for word in text.split():
        slot, value = _SLOT_OF.get(word, ("", ""))
        if slot:
            values[slot] = NUMBER_WORDS.index(value) if slot == "count" else value
    group = Group(**values)  # type: ignore[arg-type]
    if phrase(group) != text:
        raise ValueError(f"not a canonical phrase: {text!r}")
    return group


def parse_caption(text: str) -> frozenset[tuple[str, ...]]:
    """The facts a caption states: (position or "?", slot, value) and ("background", value).

    Phrases end at commas, full stops and line breaks. Words outside the vocabulary are ignored,
    a phrase that starts with "no" states nothing, and of two values for one slot the first
    counts. Never raises.
    """
    facts: set[tuple[str, ...]] = set()
    for part in _BREAKS.split(text.lower()):
        words = _WORDS.findall(part)
        if words and words[0] == "no":
            continue
        slots: dict[str, str] = {}
        for word in words:
            if word in _BACKGROUND_WORDS:
                facts.add(("background", word))
            elif word in _SLOT_OF:
                slot, value = _SLOT_OF[word]
                slots.setdefault(slot, value)
        place = slots.get("position", "?")
        facts.update((place, slot, value) for slot, value in slots.items())
    return frozenset(facts)


def attribute_counts(predicted_text: str, truth_text: str) -> tuple[int, int, int]:
    """(true positives, false positives, false negatives) of the facts of two captions."""
    predicted, truth = parse_caption(predicted_text), parse_caption(truth_text)
    hits = len(predicted & truth)
    return hits, len(predicted) - hits, len(truth) - hits


def f1_of_counts(true_positives: int, false_positives: int, false_negatives: int) -> float:
    """F1 in 0..1 of (possibly summed) counts; 1.0 where there was nothing to find or claim."""
    total = 2 * true_positives + false_positives + false_negatives
    return 1.0 if total == 0 else 2 * true_positives / total


def attribute_f1(predicted_text: str, truth_text: str) -> float:
    """F1 in 0..1 of the facts of a predicted caption against those of the true one."""
    return f1_of_counts(*attribute_counts(predicted_text, truth_text))
