"""Modifications of demo scenes: texts, edits, targets, captions, and what they entail."""

from __future__ import annotations

import random
from functools import lru_cache

import pytest

from shared.demo_world.draft import Draft
from shared.demo_world.edits import EDIT_KINDS, RETAIN, background_of, explicit_edits, target_groups
from shared.demo_world.image_edits import existent, nonexistent
from shared.demo_world.language import attribute_counts, caption, parse_phrase
from shared.demo_world.modification import Modification, modify, realise
from shared.demo_world.operations import WEIGHTS
from shared.demo_world.propositions import (
    ask,
    parse_question,
    propositions,
    question,
    random_question,
)
from shared.demo_world.referring import refer
from shared.demo_world.scene import Group, Scene, compatible, matches, random_scene
from shared.demo_world.wordings import DESCRIPTIVE, IMPERATIVE, TEMPLATES, WISH

STAR = Group(2, "small", "striped", "red", "star", "top-left")
DISC = Group(1, "large", "plain", "blue", "circle", "center")
SCENE = Scene((STAR, DISC), "white")


@lru_cache(maxsize=1)
def samples() -> tuple[tuple[Scene, Modification], ...]:
    rng = random.Random(11)
    references = [random_scene(rng) for _ in range(1500)]
    return tuple((scene, modify(scene, rng)) for scene in references)


def exists(text: str, scene: Scene) -> bool:
    background = background_of(text)
    if background is not None:
        return scene.background == background
    return any(matches(parse_phrase(text), group) for group in scene.groups)


def test_every_operation_kind_and_style_appears() -> None:
    names = {name for _, m in samples() for name in m.operations}
    assert names == set(TEMPLATES) | {"loose"}
    assert {e.kind for _, m in samples() for e in m.edits} == set(EDIT_KINDS)
    assert {m.level for _, m in samples()} == {1, 2, 3}
    assert 0.05 < sum(not m.target.complete for _, m in samples()) / len(samples()) < 0.3
    assert len(WEIGHTS) >= 15
    for styles in TEMPLATES.values():
        assert set(styles) == {IMPERATIVE, DESCRIPTIVE, WISH}
        assert len({text for texts in styles.values() for text in texts}) >= 10
    assert len({m.text for _, m in samples()}) > 0.95 * len(samples())


def test_the_text_has_no_open_fields_or_doubled_blanks() -> None:
    for _, modification in samples():
        assert not set(modification.text) & set("{}")
        assert "  " not in modification.text
        assert "None" not in modification.text


def test_no_target_is_the_reference_and_realised_targets_satisfy_the_specification() -> None:
    rng = random.Random(0)
    for scene, modification in samples():
        assert not modification.target.satisfied_by(scene)
        target = realise(modification.target, rng)
        assert modification.target.satisfied_by(target)
        assert 1 <= len(target.groups) <= 4


def test_edits_account_for_the_reference_and_the_target() -> None:
    for scene, modification in samples():
        edits = modification.edits
        kinds = [edit.kind == RETAIN for edit in edits]
        assert kinds == sorted(kinds)
        olds = [e.subject for e in edits if e.kind != "add" and background_of(e.subject) is None]
        assert sorted(olds) == sorted(caption(scene)[:-1].split(", ")[:-1])
        wanted = modification.target.groups
        assert sorted(map(repr, target_groups(edits))) == sorted(map(repr, wanted))
        grounds = [e for e in edits if background_of(e.subject) is not None]
        assert len(grounds) == 1
        assert background_of(grounds[0].present or "") == modification.target.background


def test_n_edits_is_the_number_of_explicit_edits() -> None:
    rng = random.Random(6)
    for number in (1, 2, 3):
        for groups in (1, 2, 3, 4):
            for _ in range(20):
                modification = modify(random_scene(rng, groups), rng, number)
                assert len(explicit_edits(modification.edits)) == number
    with pytest.raises(ValueError, match="n_edits"):
        modify(SCENE, rng, 4)


def test_modifications_are_deterministic() -> None:
    for seed in range(50):
        assert modify(SCENE, random.Random(seed)) == modify(SCENE, random.Random(seed))


def test_core_is_part_of_enhanced_is_part_of_comprehensive() -> None:
    for _, modification in samples():
        full = modification.comprehensive
        assert full == caption(modification.target)
        assert set(modification.enhanced[:-1].split(", ")) <= set(full[:-1].split(", ")) or (
            modification.enhanced.startswith("no ")
        )
        assert attribute_counts(modification.enhanced, full)[1] == 0
        core = modification.core[:-1].split(", ")
        for text in core:
            if not text.startswith(("no ", "on ")):
                named = parse_phrase(text)
                assert any(compatible(named, group) for group in modification.target.groups), text


def test_referring_expressions_are_unique_and_true() -> None:
    rng = random.Random(4)
    for scene, _ in samples()[:600]:
        draft = Draft(scene, rng, IMPERATIVE)
        for index, group in enumerate(scene.groups):
            reference = draft.refer(index)
            assert [g for g in scene.groups if matches(reference.named, g)] == [group]
            assert reference.plural == (group.count != 1)


def test_references_also_avoid_what_the_edits_made() -> None:
    rng = random.Random(4)
    changed = Group(1, "large", "plain", None, "star", "left")
    for _ in range(300):
        assert not compatible(refer(STAR, [DISC, changed], rng).named, changed)


def test_plain_references_name_no_count() -> None:
    rng = random.Random(9)
    for _ in range(300):
        reference = refer(STAR, [DISC], rng, plain=True)
        assert reference.named.count is None
        assert not reference.text.startswith(("both", "the only", "the two", "them"))


def test_propositions_hold_for_every_target() -> None:
    rng = random.Random(5)
    for _, modification in samples():
        found = propositions(modification)
        assert 1 <= len(found) <= 3
        assert len({text for text, _ in found}) == len(found)
        for target in {realise(modification.target, rng) for _ in range(4)}:
            for text, expected in propositions(modification, limit=20):
                assert ask(text, target) == expected, (modification.text, text)


def test_some_proposition_tells_the_reference_from_the_target() -> None:
    told = sum(
        any(ask(text, scene) != expected for text, expected in propositions(modification))
        for scene, modification in samples()
    )
    assert told > 0.97 * len(samples())


def test_image_edits_hold_for_every_target() -> None:
    rng = random.Random(5)
    for _, modification in samples():
        target = realise(modification.target, rng)
        shown, gone = existent(modification), nonexistent(modification)
        assert len(shown) <= 3
        assert len(gone) <= 3
        assert all(exists(text, target) for text in shown)
        assert not any(exists(text, target) for text in gone)
        assert shown or gone


def test_questions_read_as_specified() -> None:
    assert question(DISC) == "Is there one large plain blue circle at center?"
    assert question(Group(2, texture="striped", shape="star")) == "Are there two striped stars?"
    assert question(Group(colour="red", position="top")) == "Is there a red thing at top?"
    assert question(Group(colour="orange")) == "Is there an orange thing?"
    assert ask("Is there a striped star?", SCENE)
    assert not ask("Is there one striped star?", SCENE)
    assert not ask("Is there a striped circle?", SCENE)
    assert ask("Is the background white?", SCENE)
    for text in (
        "", "Is there a orange thing?", "Is there two stars?", "is there a star?",
        "Is the background mauve?", "Is there a star", "Are there red stars?",
    ):  # fmt: skip
        with pytest.raises(ValueError, match="canonical"):
            ask(text, SCENE)


def test_random_questions_are_balanced_true_and_hard() -> None:
    rng = random.Random(7)
    drawn = [(scene, *random_question(scene, rng)) for scene, _ in samples() for _ in range(2)]
    assert all(ask(text, scene) == answer for scene, text, answer in drawn)
    assert 0.46 < sum(answer for *_, answer in drawn) / len(drawn) < 0.54
    grounds = sum(isinstance(parse_question(text), str) for _, text, _ in drawn) / len(drawn)
    assert 0.09 < grounds < 0.18
    named = {len(a.named()) for _, t, _ in drawn if isinstance(a := parse_question(t), Group)}
    assert named == {1, 2, 3, 4, 5, 6}
    binding = 0
    for scene, text, answer in drawn:
        asked = parse_question(text)
        if isinstance(asked, Group) and not answer and len(scene.groups) > 1:
            values = {(s, g.get(s)) for g in scene.groups for s in asked.named()}
            binding += all((s, asked.get(s)) in values for s in asked.named())
    assert binding > 150
    assert random_question(SCENE, rng, want=True)[1]
    assert not random_question(SCENE, rng, want=False)[1]
