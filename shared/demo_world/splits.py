"""Keeps training and evaluation apart: random streams of their own, and held-out scenes."""

from __future__ import annotations

import hashlib
import random
from typing import Final

from shared.demo_world.language import caption
from shared.demo_world.modification import Modification, modify, realise
from shared.demo_world.scene import Scene, random_scene

HELD_OUT_BUCKETS: Final = 10


def stream_seed(*labels: str | int) -> int:
    """A 64-bit seed for a sequence of labels, the same on every machine."""
    text = "\x1f".join(str(label) for label in labels)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def training_rng(stream: str, index: int) -> random.Random:
    """The generator of one training example of a named stream."""
    return random.Random(stream_seed("demo-world/training", stream, index))


def evaluation_rng(stream: str, index: int) -> random.Random:
    """The generator of one evaluation example; shares no seed with `training_rng`."""
    return random.Random(stream_seed("demo-world/evaluation", stream, index))


def is_held_out(scene: Scene) -> bool:
    """True for the tenth of all scenes that is for evaluation only, by their caption's hash."""
    digest = hashlib.sha256(caption(scene).encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_BUCKETS == 0


def training_scene(rng: random.Random, n_groups: int | None = None) -> Scene:
    """A random scene that is not held out."""
    while is_held_out(scene := random_scene(rng, n_groups)):
        pass
    return scene


def held_out_scene(rng: random.Random, n_groups: int | None = None) -> Scene:
    """A random scene that is held out."""
    while not is_held_out(scene := random_scene(rng, n_groups)):
        pass
    return scene


def training_triplet(
    rng: random.Random, n_edits: int | None = None
) -> tuple[Scene, Modification, Scene]:
    """(reference, modification, a target of it), neither scene held out."""
    while True:
        reference = training_scene(rng)
        modification = modify(reference, rng, n_edits)
        target = realise(modification.target, rng)
        if not is_held_out(target):
            return reference, modification, target
