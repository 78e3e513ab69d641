"""The demo benchmark: its gallery, queries, files, and its separation from training."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

import pytest
from PIL import Image

from shared.demo_world import benchmark as module
from shared.demo_world.benchmark import DemoBenchmark, build, write
from shared.demo_world.scene import SLOTS, Scene
from shared.demo_world.splits import (
    evaluation_rng,
    is_held_out,
    training_rng,
    training_scene,
    training_triplet,
)


@lru_cache(maxsize=1)
def small() -> DemoBenchmark:
    return build(seed=3, n_queries=60, n_gallery=500)


def differences(one: Scene, other: Scene) -> int:
    """How many slots differ, groups paired as well as their cells allow; 99 if unpaired."""
    if len(one.groups) != len(other.groups):
        return 99
    ours, theirs = set(one.groups) - set(other.groups), set(other.groups) - set(one.groups)
    count = int(one.background != other.background)
    if len(ours) == 1:
        a, b = ours.pop(), theirs.pop()
        return count + sum(a.get(slot) != b.get(slot) for slot in SLOTS)
    return count if not ours else 99


def test_the_gallery_repeats_no_scene_and_is_large_enough() -> None:
    gallery = small().gallery
    assert len(gallery) >= 500
    assert len({scene for _, scene in gallery}) == len(gallery)
    assert [image_id for image_id, _ in gallery] == [f"{i:05d}" for i in range(len(gallery))]


def test_targets_are_exactly_the_images_that_satisfy_the_specification() -> None:
    scenes = dict(small().gallery)
    for query in small().queries:
        truth = [i for i, s in scenes.items() if query.modification.target.satisfied_by(s)]
        assert list(query.target_ids) == truth
        assert query.reference not in query.target_ids
        assert query.target_ids


def test_queries_are_spread_over_levels_and_some_have_several_targets() -> None:
    queries = small().queries
    assert [q.level for q in queries[:6]] == [1, 2, 3, 1, 2, 3]
    assert all(len(q.kinds) == q.level for q in queries)
    several = [q for q in queries if len(q.target_ids) > 1]
    assert 0.15 < len(several) / len(queries) < 0.25
    assert max(len(q.target_ids) for q in queries) <= 5


def test_distractors_miss_the_target_narrowly() -> None:
    scenes = dict(small().gallery)
    for query in small().queries:
        assert len(query.distractor_ids) in (3, 4)
        assert not set(query.distractor_ids) & {query.reference, *query.target_ids}
        near = [
            min(differences(scenes[d], scenes[t]) for t in query.target_ids)
            for d in query.distractor_ids
        ]
        assert all(n == 1 for n in near[1:])
        assert near[0] == 1 or query.level > 1


def test_references_are_held_out_and_training_scenes_are_not() -> None:
    scenes = dict(small().gallery)
    assert all(is_held_out(scenes[q.reference]) for q in small().queries)
    for index in range(200):
        rng = training_rng("test", index)
        assert not is_held_out(training_scene(rng))
        reference, modification, target = training_triplet(rng)
        assert not is_held_out(reference)
        assert not is_held_out(target)
        assert modification.target.satisfied_by(target)


def test_the_streams_differ_and_repeat() -> None:
    assert training_rng("a", 1).random() == training_rng("a", 1).random()
    draws = {make(s, i).random() for make in (training_rng, evaluation_rng)
             for s in ("a", "b") for i in range(5)}  # fmt: skip
    assert len(draws) == 20


def test_building_is_deterministic_and_depends_on_the_seed() -> None:
    assert build(5, 8, 60) == build(5, 8, 60)
    assert build(5, 8, 60).gallery != build(6, 8, 60).gallery


def test_writing_is_complete_and_repeats_byte_for_byte(tmp_path: Path) -> None:
    benchmark = build(5, 8, 60)
    digest = write(benchmark, tmp_path / "one")
    assert write(benchmark, tmp_path / "two" / "deep") == digest
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["one", "two"]
    folder = tmp_path / "one"
    meta = json.loads((folder / "meta.json").read_text())
    assert meta == {"format": 1, "seed": 5, "images": len(benchmark.gallery), "queries": 8,
                    "listing_sha256": digest}  # fmt: skip
    listing = "".join(
        f"{p.relative_to(folder).as_posix()} {hashlib.sha256(p.read_bytes()).hexdigest()}\n"
        for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "meta.json"
    )  # fmt: skip
    assert hashlib.sha256(listing.encode()).hexdigest() == digest
    lines = (folder / "gallery.jsonl").read_text().splitlines()
    assert len(lines) == len(benchmark.gallery)
    with Image.open(folder / json.loads(lines[-1])["file"]) as image:
        assert (image.size, image.mode) == ((144, 144), "RGB")
    record = json.loads((folder / "queries.jsonl").read_text().splitlines()[0])
    query = benchmark.queries[0]
    assert record["target_ids"] == list(query.target_ids)
    assert record["modification_text"] == query.modification_text
    assert record["comprehensive"] == query.modification.comprehensive
    with pytest.raises(FileExistsError):
        write(benchmark, folder)


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(module, "_write_lines", broken)
    with pytest.raises(OSError, match="disk full"):
        write(build(5, 4, 40), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
