"""One small demo stack that the documents' commands run against, in a folder like the project's."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.client import Client
from gateway.local_stack import LocalStack
from shared.demo_world.benchmark import build, write
from shared.settings import Settings
from tests.documents.fences import ROOT

QUERIES, IMAGES = 6, 40
LIMIT, TOP_K, QUESTIONS = 4, 60, 3
PICTURES = ("beach.png", "dog.png", "harbour.png", "more/market.png", "more/tower.png")


@dataclass(frozen=True)
class Place:
    """Where the commands run, and what their placeholders stand for.

    Attributes:
        folder: has what the project's own folder has, and `.xr` with the demo's data.
        pictures: a folder of images outside of it.
        first, second: ids of two finished runs.
        database: key of the demo's image database.
    """

    folder: Path
    pictures: Path
    url: str
    first: str
    second: str
    database: str
    image_id: str


@pytest.fixture(scope="session")
def place() -> Iterator[Place]:
    top = Path(tempfile.mkdtemp(prefix="xr-documents-"))
    folder = top / "xr"
    demo = folder / ".xr" / "data" / "demo"
    write(build(seed=3, n_queries=QUERIES, n_gallery=IMAGES), demo)
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name != "build":
            (folder / path.name).symlink_to(path)
    images = sorted((demo / "images").iterdir())
    shutil.copy(images[0], folder / "image.png")
    for source, name in zip(images, PICTURES, strict=False):
        (top / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, top / "pictures" / name)
    settings = Settings(home=folder / ".xr", data_root=folder / ".xr" / "data")
    with LocalStack(settings) as running, Client(running.gateway_url) as client:
        running.wait_ready()
        indexed = client.create_gallery("demo", "demo")
        finish(client, indexed.benchmark_id)
        gallery = client.gallery("demo")
        runs = [
            client.submit("demo", "val", name=name, knobs={**knobs, "top_k": TOP_K}, limit=LIMIT).id
            for name, knobs in (("a", {"num_questions": QUESTIONS}), ("b", {"num_questions": 1}))
        ]
        for run in runs:
            finish(client, run)
        image_id = next(client.gallery_images("demo")).image_id
        database = gallery.databases[0].key
        yield Place(
            folder, top / "pictures", running.gateway_url, *runs, database, image_id,
        )  # fmt: skip
    shutil.rmtree(top)


def finish(client: Client, run_id: str) -> None:
    *_, last = client.follow(run_id, every_s=0.1)
    assert last.state in ("finished", "cancelled"), last.error
