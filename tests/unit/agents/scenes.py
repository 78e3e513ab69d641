"""A gallery of small pictures, an image database over it, and messages about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from agents.backends.contract import ImageFile
from agents.backends.zero_cost import ZeroCostEmbeddingModel
from agents.similarity.skills import SimilarityAgent
from agents.stores import Databases, Galleries
from shared.contracts.messages import RequestMessage
from shared.contracts.skills import (
    Caption,
    EmbedImages,
    EmbedTexts,
    ImagesEmbedded,
    ItemFailure,
    Request,
    TextsEmbedded,
)
from shared.galleries import Gallery, write_gallery
from shared.image_database import ImageDatabase
from shared.image_database_writer import ImageDatabaseWriter


def write_pictures(folder: Path, count: int) -> list[Path]:
    """Noise of different sizes, the same at every call."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    paths = []
    for number in range(count):
        pixels = rng.integers(0, 255, (24 + number % 5, 40, 3), dtype=np.uint8)
        paths.append(folder / f"picture-{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def image_files(folder: Path, count: int) -> list[ImageFile]:
    gallery = make_gallery(folder / "galleries", write_pictures(folder / "pictures", count))
    return [ImageFile(*gallery.image_file(row)) for row in range(count)]


def make_gallery(galleries: Path, pictures: Sequence[Path]) -> Gallery:
    return write_gallery(galleries, [(path.stem, path) for path in pictures], threads=1)


def make_database(home: Path, gallery: Gallery, captions: Sequence[str | None]) -> ImageDatabase:
    """Captions as given (None = failed), embeddings by hash."""
    clip = ZeroCostEmbeddingModel()
    agent = SimilarityAgent(clip, Galleries(home / "galleries"), Databases(home / "image_db"))
    writer = ImageDatabaseWriter(
        home / "image_db", gallery, {"checkpoint": "test"}, clip.describe(), chunk_rows=64
    )
    for rows in writer.missing_captions():
        results = [
            ItemFailure("no caption") if (text := captions[row]) is None else Caption(text)
            for row in rows
        ]
        writer.add_captions(rows, results)
    for rows in writer.missing_image_embeddings():
        (images,) = agent.answer([message(EmbedImages(gallery.key, rows))])
        assert isinstance(images, ImagesEmbedded)
        writer.add_image_embeddings(rows, images.results)
    for chunk in writer.missing_caption_embeddings():
        (texts,) = agent.answer([message(EmbedTexts(tuple(chunk.captions)))])
        assert isinstance(texts, TextsEmbedded)
        writer.add_caption_embeddings(chunk.rows, texts.results)
    return writer.finish()


def message(body: Request, message_id: str = "m") -> RequestMessage:
    return RequestMessage(
        message_id=message_id, job_id="job", query_id="q", reply_to="xr:reply:tests", body=body
    )
