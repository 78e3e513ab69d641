"""Building an image database from parts that survive a kill, whoever writes them.

The rows are cut into chunks. For each chunk three parts are written durably as they arrive:
captions, image embeddings, caption embeddings. A build that was killed resumes with the parts that
are missing. The first part written wins, so that two builders at once end with one consistent
database: caption embeddings are always those of the captions that are kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from shared import atomic_files
from shared.contracts.skills import Caption, ItemFailure, Vector
from shared.errors import DatasetError, TransientError
from shared.galleries import Gallery
from shared.image_database import (
    CAPTION_EMBEDDINGS,
    CAPTIONS,
    IMAGE_EMBEDDINGS,
    MANIFEST,
    PARTS,
    CaptionRow,
    FailedStep,
    ImageDatabase,
    Manifest,
    RowFailure,
    database_key,
    is_finished,
    open_image_database,
)

CHUNK_ROWS = 64
"""Rows per part: what a kill costs at most, per step."""

PartKind = Literal["captions", "images", "caption-embeddings"]
_EXPECTED_UNIT = 1e-3


class CaptionChunk(NamedTuple):
    """Rows of one chunk that have a caption, and the captions that are kept for them."""

    rows: tuple[int, ...]
    captions: tuple[str, ...]


class BuildProgress(NamedTuple):
    """Chunks done of each step, and chunks in all."""

    captions: int
    image_embeddings: int
    caption_embeddings: int
    chunks: int


class _Plan(msgspec.Struct, frozen=True):
    chunk_rows: int


class _CaptionPart(msgspec.Struct, frozen=True):
    captions: dict[int, str]
    failures: dict[int, str]


class _VectorPart(msgspec.Struct, frozen=True):
    """`vectors`: float32 little-endian, one row per entry of `rows`, in that order."""

    rows: tuple[int, ...]
    vectors: bytes
    failures: dict[int, str]

    def matrix(self) -> npt.NDArray[np.float32]:
        vectors = np.frombuffer(self.vectors, dtype="<f4")
        return vectors.reshape(len(self.rows), -1) if self.rows else vectors.reshape(0, 0)


Part = TypeVar("Part", _Plan, _CaptionPart, _VectorPart)


class ImageDatabaseWriter:
    """One builder's hand on a database that is being built."""

    def __init__(
        self,
        databases_folder: Path,
        gallery: Gallery,
        captioner: Mapping[str, Any],
        clip: Mapping[str, Any],
        chunk_rows: int = CHUNK_ROWS,
    ) -> None:
        """Begin or resume the database of `gallery`; see `database_key` for the identities."""
        self.key = database_key(gallery.key, captioner, clip)
        self._databases_folder = databases_folder
        self._folder = databases_folder / self.key
        self._gallery = gallery
        self._captioner = dict(captioner)
        self._clip = dict(clip)
        self._chunk_rows = self._agree_on_chunks(chunk_rows)

    # --- what is missing --------------------------------------------------------------------------

    def missing_captions(self) -> Iterator[tuple[int, ...]]:
        """Rows still to be captioned, chunk by chunk; looked up when the chunk is asked for."""
        return self._missing("captions")

    def missing_image_embeddings(self) -> Iterator[tuple[int, ...]]:
        """Rows whose images are still to be embedded, chunk by chunk."""
        return self._missing("images")

    def missing_caption_embeddings(self) -> Iterator[CaptionChunk]:
        """Captions still to be embedded, of the chunks that are captioned by now."""
        for rows in self._missing("caption-embeddings"):
            chunk = self._captions_of(rows)
            if chunk is not None and chunk.rows:
                yield chunk

    def progress(self) -> BuildProgress:
        chunks = list(self._chunks())
        if is_finished(self._databases_folder, self.key):
            return BuildProgress(len(chunks), len(chunks), len(chunks), len(chunks))
        done = [
            sum(self._is_done(kind, rows) for rows in chunks)
            for kind in ("captions", "images", "caption-embeddings")
        ]
        return BuildProgress(done[0], done[1], done[2], len(chunks))

    # --- what arrives -----------------------------------------------------------------------------

    def add_captions(
        self, rows: Sequence[int], results: Sequence[Caption | ItemFailure]
    ) -> CaptionChunk:
        """Keep a chunk's captions, one result per row; an empty caption is a failure.

        Returns: the captions that are kept (another builder's, if it was first), to be embedded.
        """
        captions: dict[int, str] = {}
        failures: dict[int, str] = {}
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, ItemFailure):
                failures[row] = result.reason
            elif not result.text.strip():
                failures[row] = "the caption is empty"
            else:
                captions[row] = result.text
        self._put("captions", rows, _CaptionPart(captions, failures))
        kept = self._captions_of(rows)
        return kept or CaptionChunk(tuple(captions), tuple(captions.values()))

    def add_image_embeddings(
        self, rows: Sequence[int], results: Sequence[Vector | ItemFailure]
    ) -> None:
        """Keep a chunk's image embeddings, one result per row."""
        self._put("images", rows, _vector_part(rows, results))

    def add_caption_embeddings(
        self, rows: Sequence[int], results: Sequence[Vector | ItemFailure]
    ) -> None:
        """Keep a chunk's caption embeddings, one result per row that has a caption."""
        self._put("caption-embeddings", rows, _vector_part(rows, results))

    # --- the end ----------------------------------------------------------------------------------

    def finish(self) -> ImageDatabase:
        """Merge the parts into the database and open it. Finishing twice, or both of two builders
        finishing, is harmless.

        Raises:
            TransientError: parts are missing or damaged (those are dropped): build on.
            DatasetError: nothing could be embedded, or the embeddings differ in length.
        """
        if not is_finished(self._databases_folder, self.key):
            try:
                self._merge()
            except FileNotFoundError:
                # Another builder finished and removed the parts while we were merging them.
                if not is_finished(self._databases_folder, self.key):
                    raise
        shutil.rmtree(self._folder / PARTS, ignore_errors=True)
        return open_image_database(self._databases_folder, self.key)

    def _merge(self) -> None:
        progress = self.progress()
        if min(progress[:3]) < progress.chunks:
            raise TransientError(f"image database {self.key} is not complete: {progress}")
        failures = [
            self._failure(row, "image", reason) for row, reason in self._gallery.failures.items()
        ]
        dimensions = self._dimensions()
        with atomic_files.replacing(self._folder / IMAGE_EMBEDDINGS) as path:
            failures += self._merge_vectors("images", "image_embedding", path, dimensions)
        with atomic_files.replacing(self._folder / CAPTION_EMBEDDINGS) as path:
            failures += self._merge_vectors(
                "caption-embeddings", "caption_embedding", path, dimensions
            )
        atomic_files.write_jsonl(self._folder / CAPTIONS, self._merge_captions(failures))
        manifest = Manifest(
            key=self.key,
            gallery=self._gallery.key,
            captioner=self._captioner,
            clip=self._clip,
            rows=len(self._gallery),
            searchable=self._gallery.searchable,
            dimensions=dimensions,
            failures=tuple(sorted(failures, key=lambda failure: (failure.row, failure.step))),
        )
        atomic_files.write_json(self._folder / MANIFEST, msgspec.to_builtins(manifest))

    def _merge_captions(self, failures: list[RowFailure]) -> Iterator[dict[str, Any]]:
        """The lines of captions.jsonl by row; what failed is appended to `failures`."""
        for chunk in self._chunks(with_failed=True):
            good = self._without_failed(chunk)
            part = self._read("captions", good, _CaptionPart) if good else _CaptionPart({}, {})
            failures += [
                self._failure(row, "caption", reason) for row, reason in part.failures.items()
            ]
            for row in chunk:
                yield msgspec.to_builtins(CaptionRow(row, part.captions.get(row)))

    def _merge_vectors(
        self, kind: PartKind, step: FailedStep, path: Path, dimensions: int
    ) -> list[RowFailure]:
        merged = np.lib.format.open_memmap(  # zero where nothing is written
            path, mode="w+", dtype=np.dtype("<f4"), shape=(len(self._gallery), dimensions)
        )
        failures = []
        for rows in self._chunks():
            if kind == "caption-embeddings" and not self._has_captions(rows):
                continue
            part = self._read(kind, rows, _VectorPart)
            if part.rows:
                vectors = part.matrix()
                if vectors.shape[1] != dimensions:
                    raise DatasetError(
                        f"image database {self.key}: embeddings of {vectors.shape[1]} and of"
                        f" {dimensions} numbers; remove {self._folder} and build again"
                    )
                merged[list(part.rows)] = vectors
            failures += [self._failure(row, step, why) for row, why in part.failures.items()]
        merged.flush()
        return failures

    def _dimensions(self) -> int:
        for rows in self._chunks():
            part = self._read("images", rows, _VectorPart)
            if part.rows:
                return int(part.matrix().shape[1])
        raise DatasetError(f"no image of gallery {self._gallery.key} could be embedded")

    def _failure(self, row: int, step: FailedStep, reason: str) -> RowFailure:
        return RowFailure(row, self._gallery.image_id(row), step, reason)

    # --- chunks and parts -------------------------------------------------------------------------

    def _chunks(self, with_failed: bool = False) -> Iterator[tuple[int, ...]]:
        """Rows chunk by chunk, without those whose image is missing or broken, unless asked."""
        for first in range(0, len(self._gallery), self._chunk_rows):
            rows = tuple(range(first, min(first + self._chunk_rows, len(self._gallery))))
            kept = rows if with_failed else self._without_failed(rows)
            if kept:
                yield kept

    def _without_failed(self, rows: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(row for row in rows if row not in self._gallery.failures)

    def _missing(self, kind: PartKind) -> Iterator[tuple[int, ...]]:
        for rows in self._chunks():
            if is_finished(self._databases_folder, self.key):
                return
            if not self._is_done(kind, rows):
                yield rows

    def _is_done(self, kind: PartKind, rows: Sequence[int]) -> bool:
        if self._part_path(kind, rows).exists():
            return True
        if kind != "caption-embeddings":
            return False
        return self._part_path("captions", rows).exists() and not self._has_captions(rows)

    def _has_captions(self, rows: Sequence[int]) -> bool:
        return bool(self._read("captions", rows, _CaptionPart).captions)

    def _captions_of(self, rows: Sequence[int]) -> CaptionChunk | None:
        try:
            part = self._read("captions", rows, _CaptionPart)
        except FileNotFoundError:
            return None
        kept = sorted(part.captions.items())
        return CaptionChunk(tuple(row for row, _ in kept), tuple(text for _, text in kept))

    def _part_path(self, kind: PartKind, rows: Sequence[int]) -> Path:
        first = rows[0] - rows[0] % self._chunk_rows
        return self._folder / PARTS / f"{kind}-{first:08d}.msgpack"

    def _put(self, kind: PartKind, rows: Sequence[int], part: _CaptionPart | _VectorPart) -> None:
        expected = self._without_failed(
            tuple(range(rows[0] - rows[0] % self._chunk_rows, len(self._gallery)))
        )[: len(rows)]
        if kind != "caption-embeddings" and tuple(rows) != expected:
            raise ValueError(f"rows {rows[0]}..{rows[-1]} are not one of the chunks handed out")
        if is_finished(self._databases_folder, self.key):
            return
        path = self._part_path(kind, rows)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_files.write_bytes(path, msgspec.msgpack.encode(part), keep_existing=True)

    def _read(self, kind: PartKind, rows: Sequence[int], part_type: type[Part]) -> Part:
        return _decode(self._part_path(kind, rows), part_type)

    def _agree_on_chunks(self, chunk_rows: int) -> int:
        """The chunk size of whoever began this database."""
        if is_finished(self._databases_folder, self.key):
            return chunk_rows
        path = self._folder / PARTS / "plan.msgpack"
        path.parent.mkdir(parents=True, exist_ok=True)
        plan = msgspec.msgpack.encode(_Plan(chunk_rows))
        atomic_files.write_bytes(path, plan, keep_existing=True)
        return _decode(path, _Plan).chunk_rows


def _decode(path: Path, part_type: type[Part]) -> Part:
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=part_type)
    except msgspec.DecodeError as error:
        path.unlink(missing_ok=True)
        raise TransientError(f"{path} was damaged and has been dropped; build again") from error


def _vector_part(rows: Sequence[int], results: Sequence[Vector | ItemFailure]) -> _VectorPart:
    kept: list[int] = []
    vectors: list[bytes] = []
    failures: dict[int, str] = {}
    for row, result in zip(rows, results, strict=True):
        if isinstance(result, ItemFailure):
            failures[row] = result.reason
            continue
        vector = np.frombuffer(result.values, dtype="<f4")
        # A vector of NaNs has a length of NaN, which fails the comparison too.
        if not abs(float(np.linalg.norm(vector)) - 1.0) <= _EXPECTED_UNIT:
            failures[row] = "the embedding is not a finite vector of length 1"
            continue
        kept.append(row)
        vectors.append(result.values)
    return _VectorPart(tuple(kept), b"".join(vectors), failures)
