"""Galleries on the shared volume, in the words of the HTTP API: create, show, browse, delete."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import msgspec

from broker.submission import RunRequest
from gateway.access import Caller
from gateway.benchmarks import BrokerBenchmarks
from gateway.errors import ApiError
from gateway.pages import first_of, next_token
from gateway.records import (
    BenchmarkView,
    DatabaseView,
    GalleryImage,
    GalleryImageList,
    GalleryList,
    GalleryView,
)
from gateway.records.galleries import GalleryState
from shared.datasets.registry import FOLDER_PREFIX
from shared.errors import DatasetError
from shared.galleries import Gallery, open_gallery
from shared.gallery_updates import VERSION_MARK
from shared.gallery_versions import GalleryHistory
from shared.image_database import Captions, open_image_database
from shared.image_database_cleanup import take_away
from shared.image_database_inventory import DatabaseEntry, GalleryEntry, Inventory, take_inventory
from shared.named_galleries import (
    NamedGallery,
    NameTakenError,
    all_named,
    claim_name,
    find_named,
    forget_name,
    keep_named,
)
from shared.reference_images import REFERENCE_MARK
from shared.settings import Settings

_STATES: dict[str, GalleryState] = {
    "queued": "queued",
    "running": "indexing",
    "finished": "ready",
    "failed": "failed",
    "cancelled": "cancelled",
}


class StoredGalleries:
    """`gateway.ports.Galleries` over the shared volume. A gallery is indexed by a benchmark run."""

    def __init__(self, settings: Settings, benchmarks: BrokerBenchmarks) -> None:
        self._settings = settings
        self._benchmarks = benchmarks

    async def create(
        self, name: str, dataset: str, caller: Caller, idempotency_key: str, uploaded: bool = False
    ) -> GalleryView:
        """Give a folder of images a name and queue its index.

        Args:
            dataset: "folder:PATH".
        Raises: ApiError: no such folder (422), or the name is taken (409).
        """
        named = NamedGallery(name=name, dataset=dataset, uploaded=uploaded, owner=caller.id)
        folder = self._settings.named_galleries_folder
        try:
            await asyncio.to_thread(claim_name, folder, named)
        except DatasetError as error:
            raise ApiError(422, "invalid-name", str(error)) from error
        except NameTakenError as error:
            former = find_named(folder, name)
            again = former is not None and msgspec.structs.replace(former, run_id="") == named
            if idempotency_key and again and former is not None and former.run_id:
                return await self._of_name(former, await self._inventory())
            raise ApiError(409, "name-taken", str(error)) from error
        try:
            wanted = RunRequest(
                dataset=dataset, split="all", name="index", index_only=True, owner=caller.id
            )
            run_id = await self._benchmarks.submit_run(wanted)
        except BaseException:
            forget_name(folder, name)
            raise
        named = msgspec.structs.replace(named, run_id=run_id)
        await asyncio.to_thread(keep_named, folder, named)
        return await self._of_name(named, await self._inventory())

    async def views(self, caller: Caller, page_size: int, page_token: str) -> GalleryList:
        inventory = await self._inventory()
        everybodys = list(all_named(self._settings.named_galleries_folder))
        keys = {key for named in everybodys for key in self._keys_of(named)}
        of_names = [
            await self._of_name(named, inventory)
            for named in everybodys
            if caller.sees(named.owner) or not named.owner
        ]
        unnamed = [
            _of_key(entry, inventory)
            for entry in inventory.galleries
            if entry.key not in keys and not self._is(entry, VERSION_MARK)
        ]
        views = sorted([*of_names, *unnamed], key=lambda view: view.last_used, reverse=True)
        first = first_of(page_token)
        return GalleryList(
            galleries=views[first : first + page_size],
            total=len(views),
            next_page_token=next_token(first, page_size, len(views)),
        )

    async def view(self, key: str, caller: Caller) -> GalleryView:
        """Raises: ApiError: 404."""
        named = await asyncio.to_thread(self._named, key, caller)
        inventory = await self._inventory()
        if named is not None:
            return await self._of_name(named, inventory)
        for entry in inventory.galleries:
            if entry.key == key:
                return _of_key(entry, inventory)
        raise _unknown(key)

    async def images(
        self, key: str, caller: Caller, page_size: int, page_token: str
    ) -> GalleryImageList:
        """Raises: ApiError: 404."""
        gallery = await asyncio.to_thread(self.open, key, caller)
        captions = await asyncio.to_thread(self._captions, gallery.key, await self._inventory())
        first = first_of(page_token)
        rows = range(first, min(first + page_size, len(gallery)))
        return GalleryImageList(
            gallery=gallery.key,
            images=[_image(gallery, captions, row) for row in rows],
            total=len(gallery),
            next_page_token=next_token(first, page_size, len(gallery)),
        )

    async def delete(self, key: str, caller: Caller) -> None:
        """Forget a gallery, its databases, and its images where they were uploaded.

        Images of a server folder stay. Raises: ApiError: 404, or benchmark runs refer to it (409).
        """
        named = await asyncio.to_thread(self._named, key, caller)
        if named is None and not caller.is_admin:
            raise ApiError(403, "scope-missing", "only admin deletes a gallery that has no name")
        contents = {key} if named is None else self._keys_of(named)
        inventory = await self._inventory()
        if named is None and key not in {entry.key for entry in inventory.galleries}:
            raise _unknown(key)
        shared = {
            content
            for other in all_named(self._settings.named_galleries_folder)
            if named is None or other.name != named.name
            for content in self._keys_of(other)
        }
        for content in contents if named is None else contents - shared:
            _check_unused(content, inventory)
        if named is not None:
            await self._forget(named)
        for content in contents - shared:
            await asyncio.to_thread(self._remove, content, inventory)
        if named is not None and named.uploaded:
            await asyncio.to_thread(take_away, Path(named.dataset.removeprefix(FOLDER_PREFIX)))

    async def _forget(self, named: NamedGallery) -> None:
        """The name goes last: who dies before that finds the gallery as it was created."""
        history = GalleryHistory(self._settings.home, named)
        for run_id in {named.run_id, history.last_run()} - {""}:
            await self._benchmarks.cancel(run_id)
        await asyncio.to_thread(take_away, history.folder)
        forget_name(self._settings.named_galleries_folder, named.name)

    def open(self, key: str, caller: Caller) -> Gallery:
        """A gallery by its key or its name. Raises: ApiError: 404."""
        content = self.key_of(key, caller)
        try:
            return open_gallery(self._settings.galleries_folder, content)
        except DatasetError as error:
            raise ApiError(404, "unknown-gallery", str(error)) from error

    def key_of(self, key: str, caller: Caller) -> str:
        """The key of a gallery by its key or its name.

        Raises: ApiError: nobody knows it, it is another key's, or its images are still being read.
        """
        named = self._named(key, caller)
        if named is None:
            owners = [
                other
                for other in all_named(self._settings.named_galleries_folder)
                if other.owner and key in self._keys_of(other)
            ]
            if owners and not any(caller.sees(other.owner) for other in owners):
                raise _unknown(key)
            return key
        content = self._key_of(named)
        if not content:
            raise ApiError(
                409,
                "gallery-not-ready",
                f"gallery {named.name} is not indexed yet; its run: {named.run_id or 'none'}",
            )
        return content

    def _named(self, key: str, caller: Caller) -> NamedGallery | None:
        """Raises: ApiError: it is another key's."""
        named = find_named(self._settings.named_galleries_folder, key)
        if named is not None and named.owner and not caller.sees(named.owner):
            raise _unknown(key)
        return named

    def _key_of(self, named: NamedGallery) -> str:
        """Of the version that is searched; empty before the first one is there."""
        version = GalleryHistory(self._settings.home, named).current()
        return "" if version is None else version.gallery

    def _keys_of(self, named: NamedGallery) -> set[str]:
        """Of all its versions."""
        versions = GalleryHistory(self._settings.home, named).versions()
        return {version.gallery for version in versions}

    async def _of_name(self, named: NamedGallery, inventory: Inventory) -> GalleryView:
        run = await self._benchmarks.view(named.run_id) if named.run_id else None
        history = GalleryHistory(self._settings.home, named)
        version = await asyncio.to_thread(history.current)
        key = "" if version is None else version.gallery
        number = 0 if version is None else version.number
        entry = next((entry for entry in inventory.galleries if entry.key == key), None)
        view = (
            GalleryView(key=key, state="not indexed")
            if entry is None
            else _of_key(entry, inventory)
        )
        inner = named.dataset.removeprefix(FOLDER_PREFIX)
        return view.model_copy(
            update={
                "name": named.name,
                "state": _state(view, run),
                "folder": "" if named.uploaded else inner,
                "uploaded": named.uploaded,
                "benchmark_id": named.run_id,
                "version": number,
                "pending_changes": max(history.last_change() - number, 0) if number else 0,
                "progress": [] if run is None else run.progress,
                "error": "" if run is None else run.error,
                "last_used": view.last_used or ("" if run is None else run.submitted_at),
            }
        )

    async def _inventory(self) -> Inventory:
        """Of the galleries that are searched: reference images are none."""
        inventory = await asyncio.to_thread(take_inventory, self._settings)
        galleries = tuple(
            entry for entry in inventory.galleries if not self._is(entry, REFERENCE_MARK)
        )
        return Inventory(inventory.databases, galleries)

    def _is(self, entry: GalleryEntry, mark: str) -> bool:
        return (self._settings.galleries_folder / entry.key / mark).exists()

    def _captions(self, key: str, inventory: Inventory) -> Captions | None:
        for entry in inventory.databases:
            if entry.gallery == key and entry.state == "finished":
                with contextlib.suppress(DatasetError):
                    return open_image_database(self._settings.image_db_folder, entry.key).captions
        return None

    def _remove(self, key: str, inventory: Inventory) -> None:
        for entry in inventory.databases:
            if entry.gallery == key:
                take_away(self._settings.image_db_folder / entry.key)
        take_away(self._settings.galleries_folder / key)


def _state(view: GalleryView, run: BenchmarkView | None) -> GalleryState:
    if run is None or run.state == "finished":
        return view.state
    return _STATES[run.state]


def _of_key(entry: GalleryEntry, inventory: Inventory) -> GalleryView:
    databases = [one for one in inventory.databases if one.gallery == entry.key]
    finished = [one for one in databases if one.state == "finished"]
    building = any(one.state == "building" for one in databases)
    return GalleryView(
        key=entry.key,
        state="ready" if finished else "indexing" if building else "not indexed",
        images=entry.images,
        failed_images=entry.failed_images,
        captions=finished[0].captions if finished else 0,
        databases=[_database(one) for one in databases],
        datasets=sorted({name for one in databases for name in one.datasets}),
        size_bytes=entry.size_bytes,
        last_used=entry.last_used,
        error=entry.problem,
    )


def _database(entry: DatabaseEntry) -> DatabaseView:
    return DatabaseView(
        key=entry.key,
        state=entry.state,
        captions=entry.captions,
        failed_images=entry.failed_rows,
        captioner=entry.captioner,
        clip=entry.clip,
        index=entry.index,
    )


def _image(gallery: Gallery, captions: Captions | None, row: int) -> GalleryImage:
    entry = gallery.listing[row]
    return GalleryImage(
        row=row,
        image_id=entry.image_id,
        width=entry.width,
        height=entry.height,
        caption=None if captions is None else captions[row],
        searchable=row < gallery.searchable,
        failure=entry.failure,
    )


def _check_unused(key: str, inventory: Inventory) -> None:
    runs = [run for entry in inventory.galleries if entry.key == key for run in entry.runs]
    if runs:
        detail = f"{len(runs)} benchmark runs refer to gallery {key}, so it stays"
        raise ApiError(409, "gallery-in-use", detail, runs=runs[:20])


def _unknown(key: str) -> ApiError:
    return ApiError(
        404, "unknown-gallery", f"no gallery {key!r}; GET /v1/galleries lists the known ones"
    )
