"""Builds and writes the demo benchmark: a gallery of scenes and queries with all true targets.

`python -m shared.demo_world.benchmark --seed 7 --out DIR`
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from shared.demo_world.edits import explicit_edits
from shared.demo_world.language import caption
from shared.demo_world.modification import Modification, modify, realise
from shared.demo_world.near_misses import distractors
from shared.demo_world.render import render
from shared.demo_world.scene import Scene, TargetSpec
from shared.demo_world.splits import evaluation_rng, held_out_scene, stream_seed

FORMAT_VERSION: Final = 1
_OPEN_EVERY: Final = 5  # each fifth query has a target specification that several scenes satisfy


@dataclass(frozen=True, slots=True)
class DemoQuery:
    """One query; images are named by their ids in the gallery.

    `target_ids` are all gallery images that satisfy the modification, in gallery order;
    `distractor_ids` are made to nearly do so. `level` counts the explicit edits (1..3),
    `n_groups` the groups of the reference, `kinds` are those of the explicit edits in order.
    """

    query_id: str
    reference: str
    modification_text: str
    target_ids: tuple[str, ...]
    distractor_ids: tuple[str, ...]
    level: int
    n_groups: int
    kinds: tuple[str, ...]
    modification: Modification


@dataclass(frozen=True, slots=True)
class DemoBenchmark:
    """The gallery as (image id, scene) without repeated scenes, and the queries on it."""

    seed: int
    gallery: tuple[tuple[str, Scene], ...]
    queries: tuple[DemoQuery, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    """The scenes of a query before the gallery is complete."""

    reference: Scene
    modification: Modification
    targets: tuple[Scene, ...]
    distractors: tuple[Scene, ...]


def build(seed: int, n_queries: int = 400, n_gallery: int = 2000) -> DemoBenchmark:
    """The benchmark of a seed; its gallery has at least `n_gallery` images.

    Levels 1, 2 and 3 take turns. References, and the images that fill up the gallery, are
    held-out scenes. The same arguments give the same benchmark.
    """
    plans: list[_Plan] = []
    used: set[Scene] = set()
    for index in range(n_queries):
        plan = _plan(evaluation_rng(f"benchmark/{seed}", index), index, used)
        used.add(plan.reference)
        plans.append(plan)
    scenes: dict[Scene, None] = {}
    for plan in plans:
        scenes.update(dict.fromkeys((plan.reference, *plan.targets, *plan.distractors)))
    rng = evaluation_rng(f"benchmark-gallery/{seed}", 0)
    while len(scenes) < n_gallery:
        scenes[held_out_scene(rng)] = None
    order = list(scenes)
    rng.shuffle(order)
    ids = {scene: f"{index:05d}" for index, scene in enumerate(order)}
    index_of = _by_kind(order)
    queries = tuple(_query(number, plan, ids, index_of) for number, plan in enumerate(plans))
    return DemoBenchmark(seed, tuple((ids[scene], scene) for scene in order), queries)


def _plan(rng: random.Random, index: int, used: set[Scene]) -> _Plan:
    """The scenes of one query; its reference is not among `used`."""
    level, several = index % 3 + 1, index % _OPEN_EVERY == 0
    while True:
        reference = held_out_scene(rng)
        if reference in used:
            continue
        modification = modify(reference, rng, level)
        if modification.target.complete == several:
            continue
        wanted = rng.randint(2, 4) if several else 1
        targets = _realisations(modification.target, wanted, rng)
        near = distractors(reference, modification, targets[0], rng.choice((3, 3, 4)), rng)
        if len(targets) == wanted and len(near) >= 3:
            return _Plan(reference, modification, targets, near)


def _realisations(spec: TargetSpec, wanted: int, rng: random.Random) -> tuple[Scene, ...]:
    """At most `wanted` distinct scenes that satisfy the specification."""
    found: dict[Scene, None] = {}
    for _ in range(10 * wanted):
        if len(found) < wanted:
            found[realise(spec, rng)] = None
    return tuple(found)


def _by_kind(scenes: Iterable[Scene]) -> Mapping[tuple[int, str], list[Scene]]:
    """The scenes by number of groups and background, in order."""
    index: dict[tuple[int, str], list[Scene]] = defaultdict(list)
    for scene in scenes:
        index[len(scene.groups), scene.background].append(scene)
    return index


def _query(
    number: int, plan: _Plan, ids: Mapping[Scene, str],
    index: Mapping[tuple[int, str], list[Scene]],
) -> DemoQuery:  # fmt: skip
    spec = plan.modification.target
    rivals = index[len(spec.groups), spec.background or ""]
    return DemoQuery(
        f"q{number:04d}",
        ids[plan.reference],
        plan.modification.text,
        tuple(ids[scene] for scene in rivals if spec.satisfied_by(scene)),
        tuple(ids[scene] for scene in plan.distractors),
        plan.modification.level,
        len(plan.reference.groups),
        tuple(edit.kind for edit in explicit_edits(plan.modification.edits)),
        plan.modification,
    )


def write(benchmark: DemoBenchmark, folder: Path) -> str:
    """Writes the benchmark as a new folder, all or nothing; returns the digest of its listing.

    images/NNNNN.png, queries.jsonl, gallery.jsonl, scenes.jsonl, and meta.json with seed,
    counts and digest. Raises FileExistsError if the folder exists.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists already")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        digest = _write_files(benchmark, temporary)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return digest


def _write_files(benchmark: DemoBenchmark, folder: Path) -> str:
    (folder / "images").mkdir()
    for image_id, scene in benchmark.gallery:
        seed = stream_seed("demo-world/image", benchmark.seed, image_id)
        image = Image.fromarray(render(scene, np.random.default_rng(seed)))
        image.save(folder / "images" / f"{image_id}.png", compress_level=9)
    _write_lines(folder / "queries.jsonl", [_query_record(query) for query in benchmark.queries])
    _write_lines(
        folder / "gallery.jsonl",
        [{"image_id": image_id, "file": f"images/{image_id}.png"}
         for image_id, _ in benchmark.gallery],
    )  # fmt: skip
    _write_lines(
        folder / "scenes.jsonl",
        [{"image_id": image_id, "caption": caption(scene), **asdict(scene)}
         for image_id, scene in benchmark.gallery],
    )  # fmt: skip
    listing = "".join(
        f"{path.relative_to(folder).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )
    digest = hashlib.sha256(listing.encode()).hexdigest()
    meta = {
        "format": FORMAT_VERSION,
        "seed": benchmark.seed,
        "images": len(benchmark.gallery),
        "queries": len(benchmark.queries),
        "listing_sha256": digest,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    return digest


def _query_record(query: DemoQuery) -> dict[str, object]:
    """The query as written: the fields of `DemoQuery`, its edits and captions in place."""
    record: dict[str, object] = {
        name: getattr(query, name) for name in DemoQuery.__slots__ if name != "modification"
    }
    modification = query.modification
    record["edits"] = [asdict(edit) for edit in modification.edits]
    record["core"] = modification.core
    record["enhanced"] = modification.enhanced
    record["comprehensive"] = modification.comprehensive
    return record


def _write_lines(path: Path, records: Sequence[Mapping[str, object]]) -> None:
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Build and write the demo benchmark.")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    parser.add_argument("--queries", type=int, default=400)
    parser.add_argument("--gallery", type=int, default=2000, help="least number of images")
    options = parser.parse_args(arguments)
    benchmark = build(options.seed, options.queries, options.gallery)
    digest = write(benchmark, options.out)
    print(f"{len(benchmark.queries)} queries, {len(benchmark.gallery)} images, {digest}")


if __name__ == "__main__":
    main()
