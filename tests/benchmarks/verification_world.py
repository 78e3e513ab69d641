"""Photos, captions and queries for the benchmark of verification."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from agents.backends.contract import ImageFile
from agents.stores import Databases
from broker.query_state import QueryState
from shared.contracts.skills import ItemFailure, Proposition
from shared.demo_world.language import caption
from shared.demo_world.propositions import random_question
from shared.demo_world.render import render
from shared.demo_world.scene import Scene, random_scene
from shared.galleries import write_gallery
from shared.knobs import Knobs
from shared.ranking import ScoredRows, encode_list

TOP_K, QUESTIONS = 100, 3
FULL = Knobs(top_k=TOP_K, num_questions=QUESTIONS)
_PHOTO_PX = (640, 480)


class World(NamedTuple):
    """Photos, what is in them, and the queries that are to be verified."""

    gallery: str
    images: list[ImageFile]
    captions: list[str]
    queries: list[QueryState]
    later: list[QueryState]
    """Other queries about the same candidates."""

    def questions(self) -> list[str]:
        """All that is asked, of all queries."""
        return [one.question for query in self.queries + self.later for one in query.propositions]


class Captions(Databases):
    """The captions of a gallery, without an image database around them."""

    def __init__(self, captions: Sequence[str]) -> None:
        self._captions = captions

    def captions(self, key: str, rows: tuple[int, ...]) -> list[str | ItemFailure]:
        return [self._captions[row] for row in rows]


def make_world(folder: Path, queries: int, seed: int = 0) -> World:
    """Candidates of a query are no other's, so that each of `queries` is about new images."""
    draw, pixels = random.Random(seed), np.random.default_rng(seed)
    scenes = [random_scene(draw) for _ in range(queries * TOP_K)]
    (folder / "photos").mkdir(parents=True)
    paths = []
    for number, scene in enumerate(scenes):
        path = folder / "photos" / f"{number:04}.jpg"
        Image.fromarray(render(scene, pixels)).resize(_PHOTO_PX).save(path, quality=90)
        paths.append((path.stem, path))
    gallery = write_gallery(folder / "galleries", paths)
    images = [gallery.image_file(row) for row in range(len(scenes))]

    def asked(name: str) -> list[QueryState]:
        return [
            _query(f"{name}{n}", range(n * TOP_K, (n + 1) * TOP_K), scenes, draw, pixels)
            for n in range(queries)
        ]

    return World(
        gallery.key,
        [ImageFile(image.path, image.sha256) for image in images],
        [caption(scene) for scene in scenes],
        asked("q"),
        asked("later"),
    )


def _query(
    name: str,
    rows: range,
    scenes: Sequence[Scene],
    draw: random.Random,
    noise: np.random.Generator,
) -> QueryState:
    """Three lists that agree roughly, and questions about one of the candidates."""
    merit = noise.normal(size=len(rows))
    lists = []
    for wanted in FULL.fused_lists():
        scores = merit + 0.5 * noise.normal(size=len(rows))
        order = np.argsort(-scores)
        ranked = ScoredRows((rows.start + order).astype(np.int32), scores[order].astype(np.float32))
        lists.append(encode_list(wanted.name, ranked))
    target = scenes[draw.choice(rows)]
    questions = [random_question(target, draw) for _ in range(QUESTIONS)]
    return QueryState(
        query_id=name,
        status="ok",
        propositions=tuple(Proposition(question, answer) for question, answer in questions),
        lists=tuple(lists),
    )
