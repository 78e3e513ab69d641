"""Changes of named galleries, in the words of the HTTP API: put, remove, refresh, versions.

A change is written down before a run is queued that makes the next version of it. Nothing of it is
seen before that run has ended; nothing of it is lost when something dies in between.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import Request
from starlette.formparsers import MultiPartException

from broker.submission import RunRequest
from gateway.access import Caller
from gateway.benchmarks import BrokerBenchmarks
from gateway.errors import ApiError
from gateway.gallery_uploads import (
    MOST_PARTS,
    Member,
    check_size,
    checked_images,
    refuse,
    with_members,
)
from gateway.pages import page_of
from gateway.records import (
    GalleryUpdate,
    GalleryVersionList,
    GalleryVersionView,
)
from shared.contracts.limits import MAX_IMAGE_ID_CHARACTERS, too_long
from shared.datasets import load_dataset
from shared.datasets.named_gallery import GalleryName, source_folder
from shared.errors import DatasetError, ItemError
from shared.galleries import Gallery, open_gallery
from shared.gallery_updates import folder_change
from shared.gallery_versions import GalleryChange, GalleryHistory, PutImage, now
from shared.image_database import is_finished
from shared.metadata import Fields
from shared.named_galleries import find_named
from shared.settings import Settings

IMAGES_FORM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "images": {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "description": "the file's name is the image's id; one that is there is replaced",
        },
        "archive": {
            "type": "string",
            "format": "binary",
            "description": "a zip file of images, instead of `images`",
        },
        "metadata": {
            "type": "string",
            "description": "JSON: image id -> all fields that it has from now on; also of images "
            "that are there already",
            "examples": ['{"red.png": {"brand": "acme", "price": 12.5}}'],
        },
    },
}
_SHOWN = 20
_MOST_METADATA_BYTES = 32_000_000


class StoredGalleryChanges:
    """`gateway.ports.GalleryChanges` over the shared volume and the queue of runs."""

    def __init__(self, settings: Settings, benchmarks: BrokerBenchmarks) -> None:
        self._settings = settings
        self._benchmarks = benchmarks

    async def put(self, name: str, request: Request, caller: Caller, key: str) -> GalleryUpdate:
        """Add the images of a form, or replace those whose ids are there; set fields.

        All images are kept or none. Raises: ApiError: says what is wrong with which file.
        """
        history = await asyncio.to_thread(self._history, name, caller)
        try:
            async with request.form(
                max_files=MOST_PARTS, max_fields=10, max_part_size=_MOST_METADATA_BYTES
            ) as form:
                fields = _fields_of(form.get("metadata"))
                put: tuple[PutImage, ...] = ()
                if "images" in form or "archive" in form or not fields:
                    put = await asyncio.to_thread(
                        with_members, form, lambda members: self._keep(history, members)
                    )
        except MultiPartException as error:
            raise ApiError(422, "invalid-request", f"the form cannot be read: {error}") from error
        change = GalleryChange(put=put, fields=fields)
        await asyncio.to_thread(self._check_known, history, change)
        return await self._make(history, change, caller, key)

    async def remove(
        self, name: str, image_ids: Sequence[str], caller: Caller, key: str
    ) -> GalleryUpdate:
        """Raises: ApiError: an image that is not there (404), or none would be left (409)."""
        history = await asyncio.to_thread(self._history, name, caller)
        change = GalleryChange(removed=tuple(dict.fromkeys(image_ids)))
        repeated = await asyncio.to_thread(history.repeated, _request_of(caller, key))
        if not repeated:
            await asyncio.to_thread(self._check_known, history, change)
        return await self._make(history, change, caller, key)

    async def refresh(self, name: str, caller: Caller) -> GalleryUpdate:
        """Bring in what has been added to its server folder, changed in it, and removed from it.

        Raises: ApiError: the folder cannot be read (422).
        """
        history = await asyncio.to_thread(self._history, name, caller)
        change = await asyncio.to_thread(self._refreshed, history)
        if change == GalleryChange():
            return _update(history, change, history.last_change(), "", "unchanged")
        return await self._make(history, change, caller, "")

    async def versions(
        self, name: str, caller: Caller, page_size: int, page_token: str
    ) -> GalleryVersionList:
        """Its versions, the current one first. Raises: ApiError: 404."""
        history = await asyncio.to_thread(self._history, name, caller, indexed=False)
        found = await asyncio.to_thread(history.versions)
        page, following = page_of(found, page_size, page_token)
        current = found[0].number if found else 0
        return GalleryVersionList(
            gallery=name,
            current=current,
            last_change=history.last_change(),
            versions=[
                GalleryVersionView(
                    **msgspec.to_builtins(version),
                    current=version.number == current,
                    kept=is_finished(self._settings.image_db_folder, version.database),
                )
                for version in page
            ],
            total=len(found),
            next_page_token=following,
        )

    async def _make(
        self, history: GalleryHistory, change: GalleryChange, caller: Caller, key: str
    ) -> GalleryUpdate:
        """Write the change down, and see to it that a run makes a version of it."""
        change = msgspec.structs.replace(
            change, made_at=now(), made_by=caller.id, request=_request_of(caller, key)
        )
        number = await asyncio.to_thread(history.record, change)
        run_id = await self._build(history, caller)
        return _update(history, change, number, run_id, "queued")

    async def _build(self, history: GalleryHistory, caller: Caller) -> str:
        """The run that will make a version of all changes there are now."""
        waiting = await asyncio.to_thread(history.last_run)
        # One that no coordinator has taken yet looks for changes later than now.
        if waiting and await self._benchmarks.is_untouched(waiting):
            return waiting
        wanted = RunRequest(
            dataset=str(GalleryName(history.named.name, 0)),
            split="all",
            name="update",
            index_only=True,
            owner=caller.id,
        )
        run_id = await self._benchmarks.submit_run(wanted)
        await asyncio.to_thread(history.keep_last_run, run_id)
        return run_id

    def _history(self, name: str, caller: Caller, *, indexed: bool = True) -> GalleryHistory:
        """Raises: ApiError: no such gallery (404), or it has no version yet (409)."""
        named = find_named(self._settings.named_galleries_folder, name)
        if named is None or (named.owner and not caller.sees(named.owner)):
            detail = (
                f"there is no gallery of the name {name!r}; only one that was created by a name"
                " (POST /v1/galleries) can be changed"
            )
            raise ApiError(404, "unknown-gallery", detail)
        history = GalleryHistory(self._settings.home, named)
        if indexed and history.current() is None:
            detail = f"gallery {name} is not indexed yet; its run: {named.run_id or 'none'}"
            raise ApiError(409, "gallery-not-ready", detail)
        return history

    def _keep(self, history: GalleryHistory, members: list[Member]) -> tuple[PutImage, ...]:
        check_size(members, self._settings)
        put: dict[str, PutImage] = {}
        refused = []
        for image in checked_images(members, self._settings):
            if isinstance(image, str):
                refused.append(image)
                continue
            image_id = image.path.as_posix()
            if image_id in put:
                refused.append(f"{image.name!r}: it comes twice")
            elif not refused:
                path = history.keep_image(image.content, image.suffix)
                put[image_id] = PutImage(image_id, str(path))
        refuse(refused, len(members))
        return tuple(put.values())

    def _check_known(self, history: GalleryHistory, change: GalleryChange) -> None:
        """Refuse a change of images that are not there; all changes so far count."""
        gallery, coming = self._pending(history)
        coming = {**coming, **{image.image_id: image.path for image in change.put}}

        def is_there(image_id: str) -> bool:
            return bool(coming[image_id]) if image_id in coming else gallery.has(image_id)

        unknown = [name for name in (*change.removed, *change.fields) if not is_there(name)]
        if unknown:
            detail = f"gallery {history.named.name} has no image {unknown[0]!r}"
            if len(unknown) > 1:
                detail += f", nor {len(unknown) - 1} others that are named"
            raise ApiError(404, "unknown-image", detail, unknown=unknown[:_SHOWN])
        if change.removed:
            gone = {name for name, path in coming.items() if path is None} | {*change.removed}
            fresh = {name for name, path in coming.items() if path and not gallery.has(name)}
            if len(gallery) + len(fresh - gone) <= sum(map(gallery.has, gone)):
                detail = "no image would be left: delete the gallery instead"
                raise ApiError(409, "gallery-would-be-empty", detail)

    def _refreshed(self, history: GalleryHistory) -> GalleryChange:
        named = history.named
        if named.uploaded:
            detail = f"the images of gallery {named.name} were uploaded: there is no folder to read"
            raise ApiError(409, "no-server-folder", detail)
        try:
            benchmark = load_dataset(named.dataset, "all", self._settings.data_root)
            gallery, coming = self._pending(history)
            put = {name: path for name, path in coming.items() if path is not None}
            folder = source_folder(named, self._settings.data_root)
            return folder_change(benchmark, gallery, folder, put)
        except DatasetError as error:
            raise ApiError(422, "unusable-dataset", str(error)) from error

    def _pending(self, history: GalleryHistory) -> tuple[Gallery, dict[str, str | None]]:
        """The current version, and id -> path (None = removed) of the changes that are to come."""
        current = history.current()
        assert current is not None
        gallery = open_gallery(self._settings.galleries_folder, current.gallery)
        coming: dict[str, str | None] = {}
        for change in history.changes(current.number, history.last_change()):
            coming.update(dict.fromkeys(change.removed))
            coming.update({image.image_id: image.path for image in change.put})
        return gallery, coming


def _request_of(caller: Caller, key: str) -> str:
    """The same key of two callers is two keys."""
    return hashlib.sha256(f"{caller.id}/{key}".encode()).hexdigest() if key else ""


def _fields_of(text: Any) -> dict[str, Fields]:
    if text is None:
        return {}
    try:
        if not isinstance(text, str):
            raise ItemError("it is a file; write it as a text field")
        fields = msgspec.json.decode(text, type=dict[str, Fields])
        for image_id in fields:
            if problem := too_long("an image id", image_id, MAX_IMAGE_ID_CHARACTERS):
                raise ItemError(problem)
    except (msgspec.DecodeError, RecursionError, UnicodeError, ItemError) as error:
        detail = f"the field `metadata` is no JSON object of image id -> fields: {error}"
        raise ApiError(422, "invalid-metadata", detail) from error
    return fields


def _update(
    history: GalleryHistory, change: GalleryChange, number: int, run_id: str, state: Any
) -> GalleryUpdate:
    return GalleryUpdate(
        gallery=history.named.name,
        version=number,
        state=state,
        benchmark_id=run_id,
        put=len(change.put),
        removed=len(change.removed),
        fields=len(change.fields),
    )
