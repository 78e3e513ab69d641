"""Building an image database from parts that survive a kill, whoever writes them.

The rows are cut into chunks. For each chunk three parts are written durably as they arrive:
captions, image embeddings, caption embeddings. A build that was killed resumes with the parts that
are missing. The first part written wins, so that two builders at once end with one consistent
database: caption embeddings are always those of the captions that are kept. What is held in memory
is one chunk.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from shared.contracts.skills import Caption, ItemFailure, Vector
from shared.errors import TransientError
from shared.galleries import Gallery, mark_used
from shared.image_database import (
    PARTS,
    ImageDatabase,
    database_key,
    is_finished,
    latest_version,
    open_image_database,
)
from shared.image_database_chunks import Chunks
from shared.image_database_former import Former, find_former, open_former, version_before
from shared.image_database_merging import Merging, NothingEmbeddedError
from shared.image_database_parts import (
    CaptionPart,
    PartKind,
    Parts,
    VectorPart,
    caption_part,
    vector_part,
)

CHUNK_ROWS = 64
"""Rows per part: what a kill costs at most, per step."""

NO_CAPTIONS: Mapping[str, str] = MappingProxyType({})

_KINDS: tuple[PartKind, ...] = ("captions", "images", "caption-embeddings")


class CaptionChunk(NamedTuple):
    """Rows of one chunk that have a caption, and the captions that are kept for them."""

    rows: tuple[int, ...]
    captions: tuple[str, ...]


class StepProgress(NamedTuple):
    """Chunks done of one step, and chunks it has in all."""

    done: int
    chunks: int


class BuildProgress(NamedTuple):
    captions: StepProgress
    image_embeddings: StepProgress
    caption_embeddings: StepProgress


class ImageDatabaseWriter:
    """One builder's hand on a database that is being built.

    Attributes:
        key: of the version that is being built, or is there already.
    """

    def __init__(
        self,
        databases_folder: Path,
        gallery: Gallery,
        captioner: Mapping[str, Any],
        clip: Mapping[str, Any],
        chunk_rows: int = CHUNK_ROWS,
        retry_failed: bool = False,
        predecessor: str = "",
        given_captions: Mapping[str, str] = NO_CAPTIONS,
    ) -> None:
        """Begin, resume or find the database of `gallery`; see `database_key` for the identities.

        Args:
            retry_failed: when its last version has rows that failed though their image is readable,
                begin a new version, for which only these are asked.
            predecessor: key of a gallery whose database by the same models, if there is one, lends
                what it has of the same images; empty = none.
            given_captions: by image id, those that no captioner makes; part of `captioner` by
                their hash.
        """
        self._databases_folder = databases_folder
        self._gallery = gallery
        self._captioner = dict(captioner)
        self._clip = dict(clip)
        self._retries = latest_version(databases_folder, gallery.key, captioner, clip) or 0
        self._given = given_captions
        retried = self._version_to_retry() if retry_failed else None
        if retried is not None:
            self._retries += 1
        self.key = self._key_of_version()
        self._folder = databases_folder / self.key
        self._parts: Parts | None = None
        former = retried
        if not self._is_finished():
            lender = "" if retried is not None or not predecessor else self._lender(predecessor)
            self._parts = Parts(self._folder / PARTS, gallery.key, chunk_rows, lender)
            if retried is None and self._parts.former:
                former = self._borrowed(chunk_rows)
        self._chunks = Chunks(gallery, former, self._parts, chunk_rows)

    # --- what is missing --------------------------------------------------------------------------

    def missing_captions(self) -> Iterator[tuple[int, ...]]:
        """Rows still to be captioned, chunk by chunk; looked up when the chunk is asked for."""
        return self._missing("captions")

    def missing_image_embeddings(self) -> Iterator[tuple[int, ...]]:
        """Rows whose images are still to be embedded, chunk by chunk."""
        return self._missing("images")

    def unfinished_captions(self) -> Iterator[tuple[int, ...]]:
        """Rows whose captions, or the embeddings of these, are missing, chunk by chunk."""
        return self._missing("caption-embeddings")

    def missing_caption_embeddings(self) -> Iterator[CaptionChunk]:
        """Captions still to be embedded, of the chunks that are captioned by now."""
        for rows in self.unfinished_captions():
            chunk = self.captions_of(rows)
            if chunk is not None and chunk.rows:
                yield chunk

    def captions_of(self, rows: Sequence[int]) -> CaptionChunk | None:
        """The captions kept for a chunk, None when it isn't captioned yet."""
        try:
            part = self._chunks.captions(rows)
        except FileNotFoundError:
            return None
        kept = sorted(part.captions.items())
        return CaptionChunk(tuple(row for row, _ in kept), tuple(text for _, text in kept))

    def progress(self) -> BuildProgress:
        return BuildProgress(*(self._progress_of(kind) for kind in _KINDS))

    # --- what arrives -----------------------------------------------------------------------------

    def add_captions(
        self, rows: Sequence[int], results: Sequence[Caption | ItemFailure]
    ) -> CaptionChunk:
        """Keep a chunk's captions, one result per row; an empty caption is a failure.

        Returns: the captions that are kept (another builder's, if it was first), to be embedded.
        """
        part = caption_part(rows, results)
        self._put("captions", rows, part)
        kept = self.captions_of(rows)
        return kept or CaptionChunk(tuple(part.captions), tuple(part.captions.values()))

    def add_image_embeddings(
        self, rows: Sequence[int], results: Sequence[Vector | ItemFailure]
    ) -> None:
        """Keep a chunk's image embeddings, one result per row."""
        self._put("images", rows, vector_part(rows, results))

    def add_caption_embeddings(
        self, rows: Sequence[int], results: Sequence[Vector | ItemFailure]
    ) -> None:
        """Keep a chunk's caption embeddings, one result per row that has a caption."""
        self._put("caption-embeddings", rows, vector_part(rows, results))

    # --- the end ----------------------------------------------------------------------------------

    def finish(self) -> ImageDatabase:
        """Merge the parts into the database and open it. Finishing twice, or both of two builders
        finishing, is harmless. Where asking again has helped no row, the former version stays.

        Raises:
            TransientError: parts are missing or damaged (those are dropped): build on.
            DatasetError: not one image could be embedded; the next build asks for all again.
        """
        if not self._is_finished():
            try:
                self._check_complete()
                if self._chunks.former is not None and not self._chunks.have_healed():
                    self._drop_parts()
                    shutil.rmtree(self._folder, ignore_errors=True)
                    return self._chunks.former.database
                merging = Merging(self._folder, self._gallery, self._chunks, self._given)
                merging.run(self.key, self._captioner, self._clip, self._retries)
            except NothingEmbeddedError:
                self._drop_parts()
                raise
            except FileNotFoundError:
                # Another builder finished and removed the parts while we were merging them.
                if not self._is_finished():
                    raise
        self._drop_parts()
        mark_used(self._folder)
        return open_image_database(self._databases_folder, self.key)

    def _check_complete(self) -> None:
        progress = self.progress()
        if any(step.done < step.chunks for step in progress) and not self._is_finished():
            done = ", ".join(
                f"{kind} {step.done}/{step.chunks}"
                for kind, step in zip(_KINDS, progress, strict=True)
            )
            raise TransientError(f"image database {self.key} is not complete: {done}")

    # --- versions and parts -----------------------------------------------------------------------

    def _key_of_version(self) -> str:
        return database_key(self._gallery.key, self._captioner, self._clip, self._retries)

    def _version_to_retry(self) -> Former | None:
        key = self._key_of_version()
        if not is_finished(self._databases_folder, key):
            return None
        return version_before(open_image_database(self._databases_folder, key))

    def _lender(self, predecessor: str) -> str:
        return find_former(self._databases_folder, predecessor, self._captioner, self._clip)

    def _borrowed(self, chunk_rows: int) -> Former | None:
        """What whoever began the database takes over; when that is gone, all is asked for anew."""
        assert self._parts is not None
        former = open_former(
            self._databases_folder,
            self._parts.former,
            self._gallery,
            self._captioner,
            self._given,
        )
        if former is None:
            self._parts.drop()
            self._parts = Parts(self._folder / PARTS, self._gallery.key, chunk_rows)
        return former

    def _is_finished(self) -> bool:
        return is_finished(self._databases_folder, self.key)

    def _missing(self, kind: PartKind) -> Iterator[tuple[int, ...]]:
        for _, asked in self._chunks.each(kind):
            if self._is_finished():
                return
            if asked and not self._chunks.is_done(kind, asked):
                yield asked

    def _progress_of(self, kind: PartKind) -> StepProgress:
        finished = self._is_finished()
        done = chunks = 0
        for _, asked in self._chunks.each(kind):
            if asked:
                chunks += 1
                done += finished or self._chunks.is_done(kind, asked)
        return StepProgress(done, chunks)

    def _put(self, kind: PartKind, rows: Sequence[int], part: CaptionPart | VectorPart) -> None:
        if kind != "caption-embeddings" and not self._chunks.is_chunk(kind, rows):
            raise ValueError(f"rows {rows[0]}..{rows[-1]} are not one of the chunks handed out")
        if not self._is_finished():
            self._chunks.put(kind, rows, part)

    def _drop_parts(self) -> None:
        if self._parts is not None:
            self._parts.drop()
        else:
            shutil.rmtree(self._folder / PARTS, ignore_errors=True)
