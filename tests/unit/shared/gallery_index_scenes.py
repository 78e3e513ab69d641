"""The same galleries for every index, and image databases on disk to fill indexes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from shared import atomic_files
from shared.image_database import ImageDatabase, Manifest, open_image_database
from shared.ranking_layout import StoredMatrix

KEY = "ab" * 16
DIMENSIONS = 16


class Embedded(NamedTuple):
    image_embeddings: StoredMatrix
    caption_embeddings: StoredMatrix
    searchable: int


def unit(count: int, seed: int, dimensions: int = DIMENSIONS) -> npt.NDArray[np.float32]:
    drawn = np.random.default_rng(seed).standard_normal((count, dimensions)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def gallery(rows: int = 3000, coarse: bool = False, dtype: Any = np.float16) -> Embedded:
    """Some rows without image, some without caption, some without either, some not searchable.

    Args:
        coarse: numbers that tie everywhere.
    """
    images, captions = unit(rows, 1), unit(rows, 2)
    if coarse:
        images, captions = np.round(images * 4) / 8, np.round(captions * 4) / 8
    images[::97] = 0.0
    captions[::89] = 0.0
    images[5], captions[5] = 0.0, 0.0
    return Embedded(images.astype(dtype), captions.astype(dtype), rows - 100)


def write_database(folder: Path, embedded: Embedded, key: str = KEY) -> ImageDatabase:
    """An image database of these embeddings, without captions."""
    home = folder / key
    home.mkdir(parents=True)
    rows, dimensions = embedded.image_embeddings.shape
    np.save(home / "image_embeddings.npy", embedded.image_embeddings)
    np.save(home / "caption_embeddings.npy", embedded.caption_embeddings)
    atomic_files.write_jsonl(home / "captions.jsonl", ({"row": row} for row in range(rows)))
    manifest = Manifest(
        key, "cd" * 16, {"checkpoint": "x"}, {"checkpoint": "y"}, rows, embedded.searchable,
        dimensions, (),
    )  # fmt: skip
    atomic_files.write_json(home / "manifest.json", _plain(manifest))
    return open_image_database(folder, key)


def _plain(manifest: Manifest) -> Any:
    import msgspec

    return msgspec.to_builtins(manifest)
