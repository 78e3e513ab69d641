"""A data set of any size and its finished image database, made up without asking a model."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from broker.agents_roster import captioner_identity
from shared.contracts.skills import Caption, Vector
from shared.datasets import load_dataset
from shared.galleries import Gallery, write_gallery
from shared.image_database_writer import ImageDatabaseWriter
from shared.image_files import StatCache, inspect_image, stamp_of
from shared.settings import Settings

DATASET, SPLIT = "folder:pictures", "all"
DIMENSIONS = 512

_DIFFERENT_IMAGES = 64
_CHUNK_ROWS = 4096
_CHANGES = ("make it red", "give it longer sleeves", "add a dog", "show it at night", "remove one")
_THINGS = ("a striped shirt", "a wooden table", "two dogs", "a street", "a green bicycle")


def write_pictures(data_root: Path, images: int, queries: int, seed: int) -> None:
    """A folder data set: a few tiny images under many names (hard links), and queries."""
    folder = data_root / DATASET.removeprefix("folder:")
    folder.mkdir(parents=True)
    draw = random.Random(seed)
    originals = []
    for number in range(min(images, _DIFFERENT_IMAGES)):
        path = folder / _image_id(number)
        Image.new("RGB", (4, 4), (number, 255 - number, 90)).save(path)
        originals.append(path)
    for number in range(len(originals), images):
        (folder / _image_id(number)).hardlink_to(originals[number % len(originals)])
    lines = [
        {
            "query_id": f"query-{number:05d}",
            "reference": _image_id(draw.randrange(images)),
            "modification_text": f"{draw.choice(_CHANGES)} beside {draw.choice(_THINGS)}, {number}",
            "target_ids": [_image_id(draw.randrange(images))],
        }
        for number in range(queries)
    ]
    (folder / "queries.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def index_pictures(settings: Settings, identities: Mapping[str, Mapping[str, Any]]) -> Gallery:
    """Write the gallery and the database that a run of agents of these identities looks for."""
    benchmark = load_dataset(DATASET, SPLIT, settings.data_root)
    _remember_links(settings.galleries_folder, [str(path) for _, path in benchmark.images])
    gallery = write_gallery(settings.galleries_folder, benchmark.images, benchmark.searchable)
    writer = ImageDatabaseWriter(
        settings.image_db_folder,
        gallery,
        captioner_identity(dict(identities["imagination"])),
        dict(identities["similarity"]),
        chunk_rows=_CHUNK_ROWS,
    )
    draw = np.random.default_rng(settings.seed)
    for rows in list(writer.missing_captions()):
        writer.add_captions(rows, [Caption(_caption(row)) for row in rows])
    for rows in list(writer.missing_image_embeddings()):
        writer.add_image_embeddings(rows, _unit_vectors(draw, len(rows)))
    for chunk in list(writer.missing_caption_embeddings()):
        writer.add_caption_embeddings(chunk.rows, _unit_vectors(draw, len(chunk.rows)))
    writer.finish()
    return gallery


def _remember_links(galleries_folder: Path, paths: list[str]) -> None:
    """Every link of a file holds what the file holds: read each file once, not each link."""
    galleries_folder.mkdir(parents=True, exist_ok=True)
    facts = [inspect_image(path) for path in paths[:_DIFFERENT_IMAGES]]
    with StatCache(galleries_folder / "stat_cache.sqlite") as cache:
        cache.remember(
            [
                (path, stamp_of(path), facts[number % len(facts)])
                for number, path in enumerate(paths)
            ]
        )


def _unit_vectors(draw: np.random.Generator, count: int) -> list[Vector]:
    vectors = draw.standard_normal((count, DIMENSIONS), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [Vector(vector.astype("<f4").tobytes()) for vector in vectors]


def _image_id(number: int) -> str:
    return f"{number:08d}.png"


def _caption(row: int) -> str:
    return f"a photograph of {_THINGS[row % len(_THINGS)]} in front of a white wall, number {row}"
