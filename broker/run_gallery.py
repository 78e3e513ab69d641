"""The gallery a run is about: written anew, a version of a named gallery, or its next version."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import msgspec

from broker.run_store import RunRequest
from shared.datasets import Benchmark, Query, load_dataset
from shared.datasets.named_gallery import (
    GalleryName,
    gallery_benchmark,
    gallery_name,
    history_of,
    source_folder,
)
from shared.errors import DatasetError
from shared.galleries import Gallery, open_gallery, write_gallery
from shared.gallery_updates import write_changed_gallery
from shared.gallery_versions import GalleryHistory, GalleryVersion, now
from shared.image_database import ImageDatabase
from shared.metadata import write_metadata
from shared.settings import Settings

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class NextVersion:
    """A version of a named gallery that is under construction: not there until it is published."""

    history: GalleryHistory
    version: GalleryVersion

    async def publish(self, database: ImageDatabase, run_id: str) -> None:
        """Its image database is whole: from now on it is the one that is searched."""
        version = msgspec.structs.replace(
            self.version, database=database.key, run_id=run_id, made_at=now()
        )
        await asyncio.to_thread(self.history.publish, version)
        logger.info(
            "gallery %s has version %d: %d images put, %d removed, %d in all",
            self.history.named.name, version.number, version.put, version.removed, version.images,
        )  # fmt: skip


@dataclass(frozen=True)
class RunGallery:
    """What a run searches and asks.

    Attributes:
        benchmark: without its images and metadata, which the gallery has on the disk.
        queries: those that are asked.
        predecessor: key of a gallery whose image database lends what it has of the same images;
            empty = none.
        next_version: set when the run makes one.
    """

    benchmark: Benchmark
    queries: tuple[Query, ...]
    gallery: Gallery
    predecessor: str = ""
    next_version: NextVersion | None = None


def alone_with(settings: Settings, request: RunRequest) -> AbstractAsyncContextManager[None]:
    """Of the runs that make versions of one gallery only one is in this block."""
    wanted = gallery_name(request.dataset)
    if wanted is None or not request.index_only:
        return contextlib.nullcontext()
    return history_of(settings.home, wanted.name).alone()


def open_run_gallery(settings: Settings, request: RunRequest, progress: Progress) -> RunGallery:
    """Write or open the gallery of a run.

    A run that only indexes a named gallery makes its next version of all changes there are by now,
    if there are some.

    Raises: DatasetError: no such data set or gallery, or its files are malformed.
    """
    wanted = gallery_name(request.dataset)
    if wanted is not None and request.index_only:
        return _index_of(settings, request, wanted, progress)
    benchmark = load_dataset(request.dataset, request.split, settings.data_root, settings.home)
    queries = benchmark.queries[: request.limit]
    predecessor = ""
    if wanted is not None:
        gallery = open_gallery(settings.galleries_folder, benchmark.gallery)
        current = history_of(settings.home, wanted.name).current()
        if current is not None and current.gallery != gallery.key:
            predecessor = current.gallery
    else:
        gallery = write_gallery(
            settings.galleries_folder,
            benchmark.images,
            benchmark.searchable,
            progress,
            read_again=request.read_images_again,
        )
        if benchmark.metadata:
            write_metadata(gallery, benchmark.metadata)
    return RunGallery(_without_images(benchmark), queries, gallery, predecessor)


def _index_of(
    settings: Settings, request: RunRequest, wanted: GalleryName, progress: Progress
) -> RunGallery:
    """The current version, or the next one where there are changes, without queries."""
    history = history_of(settings.home, wanted.name)
    current = history.current()
    if current is None:
        raise DatasetError(
            f"gallery {wanted.name} is not indexed yet: `xr runs resume {history.named.run_id}`"
        )
    gallery = open_gallery(settings.galleries_folder, current.gallery)
    last_change = history.last_change()
    next_version, predecessor = None, ""
    if last_change > current.number:
        changes = history.changes(current.number, last_change)
        changed = write_changed_gallery(settings.galleries_folder, gallery, changes, progress)
        predecessor = "" if changed.gallery.key == gallery.key else gallery.key
        gallery = changed.gallery
        version = GalleryVersion(
            number=last_change,
            since=current.number + 1,
            gallery=gallery.key,
            database="",
            images=len(gallery),
            put=changed.put,
            removed=changed.removed,
        )
        next_version = NextVersion(history, version)
    name = GalleryName(wanted.name, max(last_change, current.number))
    folder = source_folder(history.named, settings.data_root)
    benchmark = gallery_benchmark(name, request.split, gallery, folder, ask=False)
    return RunGallery(_without_images(benchmark), (), gallery, predecessor, next_version)


def _without_images(benchmark: Benchmark) -> Benchmark:
    """The gallery has the listing on the disk: it need not stay in memory as well."""
    return msgspec.structs.replace(benchmark, images=(), metadata={})
