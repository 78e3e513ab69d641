"""A gallery of tiny images, and models that answer by row, for tests of image databases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from shared.contracts.skills import Caption, ItemFailure, Vector
from shared.galleries import Gallery, write_gallery
from shared.image_database import ImageDatabase
from shared.image_database_writer import ImageDatabaseWriter

CAPTIONER = {"checkpoint": "models/tiny", "prompt": "abc"}
CLIP = {"checkpoint": "models/vit"}
DIMENSIONS = 8

CaptionOf = Callable[[int], Caption | ItemFailure]
VectorOf = Callable[[int], Vector | ItemFailure]


def write_images(folder: Path, count: int, missing: int | None = None) -> list[tuple[str, Path]]:
    """(id, path) of `count` images, of which one may not be there."""
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for number in range(count):
        path = folder / f"{number}.png"
        if number != missing:
            Image.new("RGB", (2, 2), (number % 256, number // 256, 0)).save(path)
        images.append((f"img{number}", path))
    return images


def make_gallery(home: Path, count: int, missing: int | None = None) -> Gallery:
    return write_gallery(home / "galleries", write_images(home / "images", count, missing))


def make_writer(
    home: Path, gallery: Gallery, chunk_rows: int = 3, retry_failed: bool = False
) -> ImageDatabaseWriter:
    return ImageDatabaseWriter(
        home / "image_db", gallery, CAPTIONER, CLIP, chunk_rows, retry_failed
    )


def a_caption(row: int) -> Caption:
    return Caption(f"caption {row}")


def a_vector(number: int) -> Vector:
    values = np.zeros(DIMENSIONS, "<f4")
    values[number % DIMENSIONS] = 1.0
    return Vector(values.tobytes())


def fill(
    writer: ImageDatabaseWriter, caption_of: CaptionOf = a_caption, image_of: VectorOf = a_vector
) -> list[tuple[int, ...]]:
    """Answer all that is missing; returns the rows that were captioned, chunk by chunk."""
    captioned = []
    for rows in writer.missing_captions():
        captioned.append(rows)
        writer.add_captions(rows, [caption_of(row) for row in rows])
    for rows in writer.missing_image_embeddings():
        writer.add_image_embeddings(rows, [image_of(row) for row in rows])
    for chunk in writer.missing_caption_embeddings():
        vectors = [a_vector(int(text.split()[-1]) + 1) for text in chunk.captions]
        writer.add_caption_embeddings(chunk.rows, vectors)
    return captioned


def make_database(
    home: Path,
    gallery: Gallery,
    caption_of: CaptionOf = a_caption,
    image_of: VectorOf = a_vector,
    retry_failed: bool = False,
) -> ImageDatabase:
    writer = make_writer(home, gallery, retry_failed=retry_failed)
    fill(writer, caption_of, image_of)
    return writer.finish()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its path, but for what is only there while it is written."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
