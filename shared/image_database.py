"""The image database of a gallery: captions and embeddings, built once, opened by every run.

A finished database is a folder named by its key: manifest.json (what it was made from, counts,
failures), captions.jsonl, image_embeddings.npy, caption_embeddings.npy; row i belongs to row i of
the gallery. `image_database_writer` builds it. It never changes: asking again for what failed makes
a new version, which has a key of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import msgspec
import numpy as np
import numpy.typing as npt

from shared.errors import MALFORMED, DatasetError
from shared.json_lines import JsonLines

MANIFEST = "manifest.json"
CAPTIONS = "captions.jsonl"
IMAGE_EMBEDDINGS = "image_embeddings.npy"
CAPTION_EMBEDDINGS = "caption_embeddings.npy"
PARTS = "parts"
GIVEN_CAPTIONS = "given_captions"
"""The entry of a captioner's identity that holds the hash of the captions that were given."""
SCHEMA_VERSION = 2
"""Of the files below; part of the key, so that an older database is never taken for this one."""

FailedStep = Literal["image", "caption", "image_embedding", "caption_embedding"]
Embeddings = npt.NDArray[np.float16]

KEY_PATTERN = re.compile(r"[0-9a-f]{32}")


class RowFailure(msgspec.Struct, frozen=True):
    """What a row lacks and why. Only the first cause is listed: an image that cannot be read has
    neither caption nor embeddings, and one entry."""

    row: int
    image_id: str
    step: FailedStep
    reason: str


class CaptionRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of captions.jsonl; where `caption` is None the manifest says why.

    `given`: it came with the image; no captioner made it.
    """

    row: int
    caption: str | None = None
    given: bool = False


class Manifest(msgspec.Struct, frozen=True):
    """manifest.json: what the database was made from, and what failed.

    `files` maps file names to the sha256 of their bytes; `retries` counts the versions before this
    one.
    """

    key: str
    gallery: str
    captioner: dict[str, Any]
    clip: dict[str, Any]
    rows: int
    searchable: int
    dimensions: int
    failures: tuple[RowFailure, ...]
    schema_version: int = SCHEMA_VERSION
    retries: int = 0
    files: dict[str, str] = {}


class DatabaseOrigin(msgspec.Struct, frozen=True):
    """What of a manifest says which version of which database it is."""

    key: str
    gallery: str
    captioner: dict[str, Any]
    clip: dict[str, Any]
    retries: int = 0


class Captions(Sequence[str | None]):
    """Captions by row, read when asked for; None where captioning failed."""

    def __init__(self, lines: JsonLines[CaptionRow]) -> None:
        self._lines = lines

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, row: int) -> str | None: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[str | None]: ...
    def __getitem__(self, row: int | slice) -> str | Sequence[str | None] | None:
        if isinstance(row, slice):
            return [line.caption for line in self._lines[row]]
        return self._lines[row].caption

    def __iter__(self) -> Iterator[str | None]:
        return (line.caption for line in self._lines)

    def is_given(self, row: int) -> bool:
        """Whether the caption came with the image."""
        return self._lines[row].given


@dataclass(frozen=True)
class ImageDatabase:
    """An open image database.

    Attributes:
        captions: c_j by row.
        image_embeddings: v_j, float16 (rows, dimensions), unit rows, memory-mapped read-only; the
            row of a failed image is all zero.
        caption_embeddings: u_j, likewise.
        failures: every row that lacks something, by row.
        searchable: rows 0..searchable-1 are ranked.
    """

    key: str
    folder: Path
    manifest: Manifest
    captions: Captions
    image_embeddings: Embeddings
    caption_embeddings: Embeddings

    @property
    def gallery_key(self) -> str:
        return self.manifest.gallery

    @property
    def searchable(self) -> int:
        return self.manifest.searchable

    @property
    def failures(self) -> tuple[RowFailure, ...]:
        return self.manifest.failures

    def __len__(self) -> int:
        return self.manifest.rows


def database_key(
    gallery_key: str, captioner: Mapping[str, Any], clip: Mapping[str, Any], retries: int = 0
) -> str:
    """The key of the database of this gallery made by this captioner and this CLIP.

    Args:
        captioner: everything that shapes a caption: model, revision, prompt digest, image size, ...
        clip: everything that shapes an embedding: checkpoint, revision, preprocessing, ...
        retries: how often what had failed was asked for again.
    Any change of any value, however small, is another key; the order of the entries is not.
    """
    if not captioner or not clip:
        raise DatasetError("captioner and CLIP must say who they are; an empty identity was given")
    made_from: dict[str, Any] = {"gallery": gallery_key, "captioner": captioner, "clip": clip}
    if retries:
        made_from["retries"] = retries
    canonical = json.dumps(
        made_from, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":")
    )
    return hashlib.sha256(f"image database {SCHEMA_VERSION} {canonical}".encode()).hexdigest()[:32]


def latest_version(
    databases_folder: Path, gallery_key: str, captioner: Mapping[str, Any], clip: Mapping[str, Any]
) -> int | None:
    """The highest `retries` of the finished versions of a database, None when none is finished."""
    first_key = database_key(gallery_key, captioner, clip)
    found = [
        origin.retries
        for origin in finished_databases(databases_folder)
        if database_key(origin.gallery, origin.captioner, origin.clip) == first_key
    ]
    return max(found, default=None)


def latest_with_given_captions(
    databases_folder: Path, gallery_key: str, captioner: Mapping[str, Any], clip: Mapping[str, Any]
) -> str:
    """The key of the database of these models that was finished last, of those whose captions were
    given in part (the others are this captioner's) or all; empty = none."""
    found = [
        (_finished_at_ns(databases_folder / origin.key), origin.key)
        for origin in finished_databases(databases_folder)
        if origin.gallery == gallery_key
        and dict(origin.clip) == dict(clip)
        and GIVEN_CAPTIONS in origin.captioner
        and made_by(origin.captioner) in ({}, dict(captioner))
    ]
    return max(found)[1] if found else ""


def _finished_at_ns(folder: Path) -> int:
    try:
        return (folder / MANIFEST).stat().st_mtime_ns
    except OSError:
        return 0  # removed meanwhile


def made_by(captioner: Mapping[str, Any]) -> dict[str, Any]:
    """The captioner itself, whatever captions were given beside it; {} where all were."""
    return {name: value for name, value in captioner.items() if name != GIVEN_CAPTIONS}


def finished_databases(databases_folder: Path) -> Iterator[DatabaseOrigin]:
    """What each finished database was made from."""
    for path in databases_folder.glob(f"*/{MANIFEST}"):
        try:
            yield msgspec.json.decode(path.read_bytes(), type=DatabaseOrigin)
        except (OSError, *MALFORMED):
            continue  # removed meanwhile, or damaged, which opening it will say


def is_finished(databases_folder: Path, key: str) -> bool:
    """Whether the database is complete; its manifest is written last."""
    return (databases_folder / _checked(key) / MANIFEST).exists()


def open_image_database(databases_folder: Path, key: str) -> ImageDatabase:
    """Open a finished database; costs a few milliseconds, whatever its size.

    Raises: DatasetError: there is none, it is still being built, or its files do not fit together.
    """
    folder = databases_folder / _checked(key)
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError:
        state = "is still being built" if (folder / PARTS).is_dir() else "does not exist"
        raise DatasetError(f"image database {folder} {state}; index the gallery first") from None
    except (OSError, *MALFORMED) as error:
        raise DatasetError(f"{folder / MANIFEST}: {error}") from error
    if manifest.schema_version != SCHEMA_VERSION:
        raise DatasetError(
            f"image database {folder} has format {manifest.schema_version}, this version reads"
            f" {SCHEMA_VERSION}: index the gallery again"
        )
    lines = JsonLines(folder / CAPTIONS, CaptionRow)
    if len(lines) != manifest.rows:
        raise DatasetError(f"{folder / CAPTIONS} has {len(lines)} lines, not {manifest.rows}")
    shape = (manifest.rows, manifest.dimensions)
    return ImageDatabase(
        key=key,
        folder=folder,
        manifest=manifest,
        captions=Captions(lines),
        image_embeddings=_open_matrix(folder / IMAGE_EMBEDDINGS, shape),
        caption_embeddings=_open_matrix(folder / CAPTION_EMBEDDINGS, shape),
    )


def _checked(key: str) -> str:
    if not KEY_PATTERN.fullmatch(key):
        raise DatasetError(f"{key!r} is no image database key: 32 hexadecimal digits")
    return key


def _open_matrix(path: Path, shape: tuple[int, int]) -> Embeddings:
    try:
        matrix: Embeddings = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy parses the header with half of Python's own parser
        raise DatasetError(f"{path}: {error}") from error
    if matrix.shape != shape or matrix.dtype != np.float16:
        raise DatasetError(f"{path} holds {matrix.dtype} {matrix.shape}, not float16 {shape}")
    return matrix
