"""Merging the parts of an image database into its final files, one chunk in memory at a time."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
import numpy as np

from shared import atomic_files
from shared.errors import DatasetError
from shared.galleries import Gallery
from shared.image_database import (
    CAPTION_EMBEDDINGS,
    CAPTIONS,
    IMAGE_EMBEDDINGS,
    MANIFEST,
    PARTS,
    CaptionRow,
    Embeddings,
    FailedStep,
    Manifest,
    RowFailure,
)
from shared.image_database_chunks import Chunks
from shared.image_database_former import Rows
from shared.image_database_parts import VectorPart

_REASONS_SHOWN = 3


class NothingEmbeddedError(DatasetError):
    """Not one image could be embedded."""


class Merging:
    """One merge of all parts; several at once, of the same parts, write the same bytes."""

    def __init__(
        self,
        folder: Path,
        gallery: Gallery,
        chunks: Chunks,
        given_captions: Mapping[str, str],
    ) -> None:
        """`given_captions`: by image id, those that no captioner made."""
        self._folder = folder
        self._gallery = gallery
        self._chunks = chunks
        self._given = given_captions
        self._failures: list[RowFailure] = []
        self._dimensions = 0

    def run(
        self, key: str, captioner: Mapping[str, Any], clip: Mapping[str, Any], retries: int
    ) -> None:
        """Write all files, the manifest last.

        Raises:
            FileNotFoundError: another builder has finished and removed the parts.
            TransientError: a part was damaged, and is gone now.
            NothingEmbeddedError: there is no image embedding.
        """
        for row, reason in self._gallery.failures.items():
            self._failed(row, "image", reason)
        self._take_over_failures()
        self._dimensions = self._usual_length()
        files = {
            IMAGE_EMBEDDINGS: self._write(IMAGE_EMBEDDINGS, self._merge_images),
            CAPTION_EMBEDDINGS: self._write(CAPTION_EMBEDDINGS, self._merge_caption_embeddings),
            CAPTIONS: self._write(CAPTIONS, self._merge_captions),
        }
        manifest = Manifest(
            key=key,
            gallery=self._gallery.key,
            captioner=dict(captioner),
            clip=dict(clip),
            rows=len(self._gallery),
            searchable=self._gallery.searchable,
            dimensions=self._dimensions,
            failures=tuple(sorted(self._failures, key=lambda failure: (failure.row, failure.step))),
            retries=retries,
            files=files,
        )
        described = json.dumps(msgspec.to_builtins(manifest), ensure_ascii=False, indent=2)
        self._write(MANIFEST, lambda file: file.write(described.encode() + b"\n"))

    def _write(self, name: str, fill: Callable[[_HashedFile], None]) -> str:
        """Write one of the database's files; returns its sha256.

        It is begun among the parts, so that what a kill leaves of it goes when they go.
        """
        with atomic_files.scratch_file(self._folder / PARTS / name) as path:
            with path.open("wb") as opened:
                file = _HashedFile(opened)
                fill(file)
            atomic_files.move_into_place(path, self._folder / name)
        return file.digest.hexdigest()

    def _merge_captions(self, file: _HashedFile) -> None:
        former = self._chunks.former
        for rows, asked in self._chunks.each("captions"):
            captions: dict[int, str | None] = {}
            if former is not None:
                sources = former.captions[rows.start : rows.stop].tolist()
                captions = {
                    row: former.database.captions[source]
                    for row, source in zip(rows, sources, strict=True)
                    if source >= 0
                }
            part = self._chunks.captions(asked)
            captions |= {**part.captions, **dict.fromkeys(part.failures)}
            for row, reason in part.failures.items():
                self._failed(row, "caption", reason)
            for row in rows:
                file.write(msgspec.json.encode(self._caption_row(row, captions.get(row))) + b"\n")

    def _caption_row(self, row: int, caption: str | None) -> CaptionRow:
        given = bool(self._given) and self._gallery.image_id(row) in self._given
        return CaptionRow(row, caption, given and caption is not None)

    def _merge_images(self, file: _HashedFile) -> None:
        former = self._chunks.former
        kept = None if former is None else _Kept(former.database.image_embeddings, former.images)
        self._begin_matrix(file)
        for rows, asked in self._chunks.each("images"):
            part = self._chunks.images(asked)
            file.write(self._block(rows, kept, part, "image_embedding"))

    def _merge_caption_embeddings(self, file: _HashedFile) -> None:
        former = self._chunks.former
        kept = (
            None if former is None else _Kept(former.database.caption_embeddings, former.captions)
        )
        self._begin_matrix(file)
        for rows, asked in self._chunks.each("captions"):
            part = self._chunks.caption_embeddings(asked)
            file.write(self._block(rows, kept, part, "caption_embedding"))

    def _begin_matrix(self, file: _HashedFile) -> None:
        shape = (len(self._gallery), self._dimensions)
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)

    def _block(self, rows: range, kept: _Kept | None, part: VectorPart, step: FailedStep) -> bytes:
        """The matrix rows of one chunk, zero where nothing is; what failed is noted."""
        block = np.zeros((len(rows), self._dimensions), "<f2")
        if kept is not None:
            sources = kept.rows[rows.start : rows.stop]
            block[sources >= 0] = kept.matrix[sources[sources >= 0]]
        for row, reason in part.failures.items():
            self._failed(row, step, reason)
        for row, values in part.vectors.items():
            vector = np.frombuffer(values, "<f4")
            if len(vector) == self._dimensions:
                block[row - rows.start] = vector
            else:
                told = f"the embedding has {len(vector)} numbers, not {self._dimensions}"
                self._failed(row, step, told)
        return block.tobytes()

    def _usual_length(self) -> int:
        """How many numbers an embedding has: as most of the images' have."""
        if self._chunks.former is not None:
            return self._chunks.former.database.manifest.dimensions
        lengths: Counter[int] = Counter()
        reasons: Counter[str] = Counter()
        for _, asked in self._chunks.each("images"):
            part = self._chunks.images(asked)
            lengths.update(len(values) // 4 for values in part.vectors.values())
            if not lengths:
                reasons.update(part.failures.values())
        if not lengths:
            told = "; ".join(f"{n} times: {why}" for why, n in reasons.most_common(_REASONS_SHOWN))
            raise NothingEmbeddedError(
                f"no image of gallery {self._gallery.key} could be embedded ({told or 'no images'})"
            )
        return max(lengths, key=lambda length: (lengths[length], length))

    def _take_over_failures(self) -> None:
        """What the rows lack that are taken over."""
        former = self._chunks.former
        if former is None:
            return
        lacking: dict[tuple[str, int], list[RowFailure]] = {}
        for failure in former.database.failures:
            of = "images" if failure.step == "image_embedding" else "captions"
            lacking.setdefault((of, failure.row), []).append(failure)
        if not lacking:
            return
        for of, sources in (("images", former.images), ("captions", former.captions)):
            for row, source in enumerate(sources.tolist()):
                for failure in lacking.get((of, source), ()):
                    if failure.step != "image":
                        self._failed(row, failure.step, failure.reason)

    def _failed(self, row: int, step: FailedStep, reason: str) -> None:
        self._failures.append(RowFailure(row, self._gallery.image_id(row), step, reason))


class _Kept(NamedTuple):
    """Embeddings of a former database, and for each new row the one it gets; -1 = none."""

    matrix: Embeddings
    rows: Rows


class _HashedFile:
    """Hashes what it writes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.digest.update(data)
