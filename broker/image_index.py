"""Builds the image database of a gallery through the agents: captions and all embeddings."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from broker.agents_client import Ask
from broker.agents_roster import captioner_identity
from shared.contracts.skills import (
    AgentName,
    Caption,
    CaptionImages,
    EmbedImages,
    EmbedTexts,
    ImagesCaptioned,
    ImagesEmbedded,
    ItemFailure,
    Request,
    Result,
    TextsEmbedded,
    Vector,
)
from shared.errors import ItemError, TransientError
from shared.galleries import Gallery
from shared.image_database import GIVEN_CAPTIONS, ImageDatabase
from shared.image_database_writer import NO_CAPTIONS, CaptionChunk, ImageDatabaseWriter

logger = logging.getLogger(__name__)

Entry = TypeVar("Entry")
Outcome = TypeVar("Outcome")
Chunk = TypeVar("Chunk", ImagesCaptioned, ImagesEmbedded, TextsEmbedded)
Progress = Callable[[int, int, int], None]

INDEX_AGENTS: tuple[AgentName, ...] = ("imagination", "similarity")
"""Those an image database is built by."""
ROWS_PER_MESSAGE = 16
"""So that several agents share a chunk, and a lost message costs little."""
CHUNKS_IN_FLIGHT = 4
"""Chunks under way per step: bounds what is held in memory and in the queues."""
_BUILD_ATTEMPTS = 3


def writer_for(
    databases_folder: Path,
    gallery: Gallery,
    captions: Mapping[str, str],
    identities: Mapping[str, Mapping[str, Any]],
    retry_failed: bool,
    predecessor: str = "",
) -> ImageDatabaseWriter:
    """The database of a gallery as these agents make it, begun, half done or finished.

    Args:
        captions: by image id, those that are given.
        identities: of the imagination agent, which captions, and of the similarity agent.
        retry_failed, predecessor: see `ImageDatabaseWriter`.
    """
    captioner = captioner_identity(dict(identities["imagination"]))
    return ImageDatabaseWriter(
        databases_folder,
        gallery,
        identity_with_given_captions(captioner, gallery, captions),
        dict(identities["similarity"]),
        retry_failed=retry_failed,
        predecessor=predecessor,
        given_captions=captions,
    )


async def build_image_database(
    gallery: Gallery,
    ask: Ask,
    writer: ImageDatabaseWriter,
    progress: Progress,
    captions: Mapping[str, str] = NO_CAPTIONS,
) -> ImageDatabase:
    """Build what is missing of the database and open it.

    Images and captions are under way at the same time, and a chunk's captions are embedded as soon
    as they are there. An image that fails is named in the database; the rest goes on.

    Args:
        progress: called with (images done, images in all, failed) after every chunk.
        captions: by image id, those that are given; see `identity_with_given_captions`.
    Raises:
        TransientError: agents did not answer, or parts were damaged again and again; what is
            there stays, and the next attempt builds on.
        DatasetError: not one image could be embedded.
    """
    for attempt in range(1, _BUILD_ATTEMPTS + 1):
        await _Building(gallery, ask, writer, progress, captions, attempt).run()
        try:
            return await asyncio.to_thread(writer.finish)
        except TransientError as error:  # damaged parts were dropped
            logger.warning("image database %s: %s", writer.key, error)
            if attempt == _BUILD_ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def identity_with_given_captions(
    captioner: Mapping[str, Any], gallery: Gallery, captions: Mapping[str, str]
) -> dict[str, Any]:
    """What shapes the captions when some of them, or all, are given: their hash, too.

    Where every image has a given caption, the captioner does not matter, and is left out.
    """
    digest = hashlib.sha256()
    complete = True
    for row in range(len(gallery)) if captions else ():
        image_id = gallery.image_id(row)
        caption = captions.get(image_id)
        complete = complete and (caption is not None or row in gallery.failures)
        if caption is not None:
            digest.update(json.dumps([image_id, caption]).encode() + b"\n")
    if not captions:
        return dict(captioner)
    given = {GIVEN_CAPTIONS: digest.hexdigest()}
    return given if complete else {**captioner, **given}


class _Building:
    """One pass over all that is missing."""

    def __init__(
        self,
        gallery: Gallery,
        ask: Ask,
        writer: ImageDatabaseWriter,
        progress: Progress,
        captions: Mapping[str, str],
        attempt: int,
    ) -> None:
        self._gallery = gallery
        self._ask_agent = ask
        self._writer = writer
        self._progress = progress
        self._given = captions
        self._attempt = attempt
        self._failed: set[int] = set(gallery.failures)
        self._chunks_done = 0
        self._chunks = 1

    async def run(self) -> None:
        steps = await asyncio.to_thread(self._writer.progress)
        of_captions, of_images = steps.caption_embeddings, steps.image_embeddings
        self._chunks_done = of_captions.done + of_images.done
        self._chunks = max(of_captions.chunks + of_images.chunks, 1)
        await _all_of(
            self._each(self._writer.missing_image_embeddings(), self._embed_images),
            self._each(self._writer.unfinished_captions(), self._caption_and_embed),
        )

    async def _each(
        self,
        chunks: Iterator[tuple[int, ...]],
        work: Callable[[tuple[int, ...]], Awaitable[None]],
    ) -> None:
        """`work` on every chunk, a few at the same time; they are looked up one by one."""

        async def lane() -> None:
            for chunk in chunks:
                await work(chunk)
                self._chunks_done += 1
                rows = len(self._gallery)
                done = rows * self._chunks_done // self._chunks
                self._progress(done, rows, len(self._failed))

        await _all_of(*(lane() for _ in range(CHUNKS_IN_FLIGHT)))

    async def _embed_images(self, rows: tuple[int, ...]) -> None:
        async def embed(part: str, some: Sequence[int]) -> Sequence[Vector | ItemFailure]:
            body = EmbedImages(self._gallery.key, tuple(some))
            answer = await self._ask("embed_images", part, body, ImagesEmbedded, len(some))
            return answer.results

        results = await self._in_messages(rows, rows, embed)
        await asyncio.to_thread(self._writer.add_image_embeddings, rows, results)

    async def _caption_and_embed(self, rows: tuple[int, ...]) -> None:
        kept = self._writer.captions_of(rows)
        if kept is None:
            captions = await self._captions(rows)
            kept = await asyncio.to_thread(self._writer.add_captions, rows, captions)
        self._failed.update(set(rows) - set(kept.rows))
        if kept.rows:
            await self._embed_captions(kept)

    async def _captions(self, rows: tuple[int, ...]) -> list[Caption | ItemFailure]:
        """A caption per row: the one that is given, or the captioner's."""

        async def caption(part: str, some: Sequence[int]) -> Sequence[Caption | ItemFailure]:
            body = CaptionImages(self._gallery.key, tuple(some))
            answer = await self._ask("caption", part, body, ImagesCaptioned, len(some))
            return answer.results

        captions: dict[int, Caption | ItemFailure] = {}
        for row in rows if self._given else ():
            given = self._given.get(self._gallery.image_id(row))
            if given is not None:
                captions[row] = Caption(given)
        asked = [row for row in rows if row not in captions]
        answered = await self._in_messages(asked, asked, caption)
        captions.update(zip(asked, answered, strict=True))
        return [captions[row] for row in rows]

    async def _embed_captions(self, chunk: CaptionChunk) -> None:
        async def embed(part: str, some: Sequence[str]) -> Sequence[Vector | ItemFailure]:
            body = EmbedTexts(tuple(some))
            answer = await self._ask("embed_captions", part, body, TextsEmbedded, len(some))
            return answer.results

        results = await self._in_messages(chunk.rows, chunk.captions, embed)
        await asyncio.to_thread(self._writer.add_caption_embeddings, chunk.rows, results)

    async def _in_messages(
        self,
        rows: Sequence[int],
        items: Sequence[Entry],
        ask: Callable[[str, Sequence[Entry]], Coroutine[Any, Any, Sequence[Outcome | ItemFailure]]],
    ) -> list[Outcome | ItemFailure]:
        """One result per item, in order, asked in messages of a few items at the same time."""
        starts = range(0, len(items), ROWS_PER_MESSAGE)
        answered = await _all_of(
            *(ask(str(rows[first]), items[first : first + ROWS_PER_MESSAGE]) for first in starts)
        )
        results = [result for results in answered for result in results]
        self._failed.update(
            row
            for row, result in zip(rows, results, strict=True)
            if isinstance(result, ItemFailure)
        )
        return results

    async def _ask(
        self, step: str, part: str, body: Request, kind: type[Chunk], count: int
    ) -> Chunk:
        """The answer; a message that is refused as a whole fails each of its items."""
        part = f"{part}.{self._attempt}"
        try:
            answer = await self._ask_agent("index", step, part, body)
            if isinstance(answer, kind) and len(answer.results) == count:
                return answer
            reason = f"{step} of {count} items was answered by {_describe(answer)}"
        except ItemError as error:
            reason = str(error)
        logger.warning("%s, part %s: %s", step, part, reason)
        return kind(results=tuple(ItemFailure(reason) for _ in range(count)))


def _describe(answer: Result) -> str:
    results = getattr(answer, "results", None)
    number = "" if results is None else f" of {len(results)}"
    return f"a {type(answer).__name__}{number}"


async def _all_of(*parts: Coroutine[Any, Any, Outcome]) -> list[Outcome]:
    """All results in order; the first error ends the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for part in parts]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
