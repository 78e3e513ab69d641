"""Scenes, specifications, rendering and canonical text of the demo world."""

from __future__ import annotations

import io
import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from shared.demo_world.language import (
    attribute_counts,
    attribute_f1,
    caption,
    parse_caption,
    parse_phrase,
    phrase,
)
from shared.demo_world.near_misses import one_attribute_off
from shared.demo_world.phrasing import human_caption
from shared.demo_world.render import CELL, render
from shared.demo_world.scene import (
    POSITION_INDEX,
    SLOT_VALUES,
    SLOTS,
    Group,
    Scene,
    TargetSpec,
    matches,
    random_scene,
)

STAR = Group(2, "small", "striped", "red", "star", "top-left")
DISC = Group(1, "large", "plain", "blue", "circle", "center")
SCENE = Scene((DISC, STAR), "white")


def scenes(number: int, seed: int = 0) -> list[Scene]:
    rng = random.Random(seed)
    return [random_scene(rng) for _ in range(number)]


def test_a_scene_orders_its_groups_and_rejects_illegal_ones() -> None:
    assert SCENE.groups == (STAR, DISC)
    for groups in ((), (STAR, replace(DISC, position="top-left")), (replace(STAR, shape=None),)):
        with pytest.raises(ValueError, match="scene"):
            Scene(groups, "white")
    with pytest.raises(ValueError, match="background"):
        Scene((STAR,), "mauve")


def test_random_scenes_have_the_asked_number_of_groups_and_share_attributes() -> None:
    rng = random.Random(3)
    assert [len(random_scene(rng, n).groups) for n in (1, 2, 3, 4)] == [1, 2, 3, 4]
    pairs = [random_scene(rng, 2).groups for _ in range(400)]
    assert sum(a.colour == b.colour for a, b in pairs) > 120  # 50 if they were independent


def test_a_specification_needs_a_bijection() -> None:
    red, star = Group(colour="red"), Group(shape="star")
    spec = TargetSpec((red, star), None)
    assert spec.satisfied_by(Scene((STAR, replace(DISC, colour="red")), "pink"))
    assert not spec.satisfied_by(SCENE)  # one group would have to serve both partials
    assert not spec.satisfied_by(Scene((STAR,), "pink"))
    assert not replace(spec, groups=(star, Group()), background="pink").satisfied_by(SCENE)


def test_canonical_text() -> None:
    assert caption(SCENE) == (
        "two small striped red stars at top-left, one large plain blue circle at center, on white."
    )
    assert phrase(Group(colour="red", position="top")) == "red thing at top"
    assert phrase(Group(count=3, texture="dotted")) == "three dotted things"
    assert caption(TargetSpec((Group(shape="cross", count=2),), None)) == "two crosses."


def test_phrases_are_read_back_and_others_refused() -> None:
    rng = random.Random(1)
    for scene in scenes(300):
        for group in scene.groups:
            partial = group.only(tuple(slot for slot in SLOTS if rng.random() < 0.6))
            assert parse_phrase(phrase(partial)) == partial
            assert matches(partial, group)
    for text in ("", "red", "stars two", "one stars", "two star", "red small star"):
        with pytest.raises(ValueError, match="canonical"):
            parse_phrase(text)


def test_the_facts_of_a_caption_are_those_of_the_scene() -> None:
    words = ("zero", "one", "two", "three")
    for scene in scenes(300):
        truth = {("background", scene.background)}
        facts = set(parse_caption(caption(scene)))
        for group in scene.groups:
            for slot, value in zip(SLOTS, group.values(), strict=True):
                text = words[value] if isinstance(value, int) else str(value)
                assert (str(group.position), slot, text) in facts
        assert truth <= facts
        assert len(facts) == 6 * len(scene.groups) + 1


def test_f1_falls_with_each_wrong_attribute() -> None:
    rng = random.Random(5)
    for scene in scenes(200):
        text = caption(scene)
        assert attribute_f1(text, text) == 1.0
        assert 0 < attribute_f1(caption(one_attribute_off(scene, rng)), text) < 1.0
    assert attribute_counts("a nice red star at top", "two red circles at top.") == (2, 1, 2)
    assert attribute_counts("a red star", "red star at top.") == (0, 2, 3)
    assert attribute_f1("", "red star.") == 0.0
    assert attribute_f1("no red star.", "") == 1.0
    assert parse_caption("\x00,,Ünï 7 {}") == frozenset()


def test_human_captions_vary_and_name_each_group() -> None:
    rng = random.Random(2)
    assert len({human_caption(SCENE, rng) for _ in range(200)}) > 150
    assert {word for _ in range(300) for word in human_caption(SCENE, rng).split()} >= {
        "disc", "tiny", "little", "big", "upper", "stripes",
    }  # fmt: skip


def test_rendering_draws_only_in_the_cells_of_the_groups() -> None:
    for scene in scenes(60):
        image = render(scene, np.random.default_rng(4))
        assert image.shape == (144, 144, 3)
        assert image.dtype == np.uint8
        used = {POSITION_INDEX[group.position] for group in scene.groups}
        for cell in range(9):
            row, column = divmod(cell, 3)
            y, x = row * CELL, column * CELL
            middle = image[y + 6 : y + 42, x + 6 : x + 42].astype(int)
            assert (middle.std(axis=(0, 1)).max() > 8) == (cell in used)


def test_rendering_shows_every_attribute() -> None:
    def mean_difference(one: Scene, other: Scene) -> float:
        images = [render(s, np.random.default_rng(9)).astype(int) for s in (one, other)]
        return float(np.abs(images[0] - images[1]).sum())

    for scene in scenes(40, seed=8):
        group = scene.groups[0]
        for slot in SLOTS[:5]:
            value = next(v for v in SLOT_VALUES[slot] if v != group.get(slot))
            other = Scene((group.with_value(slot, value), *scene.groups[1:]), scene.background)
            assert mean_difference(scene, other) > 1500, (slot, group)


def test_rendering_depends_on_the_generator_alone_and_compresses_well() -> None:
    sizes = []
    for scene in scenes(40):
        one, same, other = (render(scene, np.random.default_rng(s)) for s in (1, 1, 2))
        assert np.array_equal(one, same)
        assert not np.array_equal(one, other)
        buffer = io.BytesIO()
        Image.fromarray(one).save(buffer, "PNG")
        sizes.append(len(buffer.getvalue()))
    assert sorted(sizes)[36] < 6000
