"""Makes the next version of a gallery from the one before and the changes since.

Only the images that are put are read: the other lines of the listing are taken over as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from shared.datasets.benchmark import Benchmark
from shared.errors import DatasetError, ItemError
from shared.galleries import (
    Gallery,
    GalleryRow,
    check_image_id,
    is_unchanged,
    read_rows,
    write_listing,
)
from shared.gallery_versions import GalleryChange, PutImage
from shared.image_files import inspect_image
from shared.metadata import Fields, read_metadata, write_metadata

VERSION_MARK = "version"
"""A file of this name says that a gallery is a version of a named one, and is listed as such."""


class ChangedGallery(NamedTuple):
    """A new gallery, how many images were put, and how many went."""

    gallery: Gallery
    put: int
    removed: int


class _Wanted(NamedTuple):
    """What all changes come to. `images`: id -> path, None = removed."""

    images: dict[str, str | None]
    fields: dict[str, Fields]


def write_changed_gallery(
    galleries_folder: Path,
    former: Gallery,
    changes: Iterable[GalleryChange],
    progress: Callable[[int, int], None] | None = None,
) -> ChangedGallery:
    """Write the listing and the metadata that `former` has after `changes`.

    A replaced image keeps its row, the rows of removed images close up, new images come behind
    those that are searched, in the order in which they were put. An id that is removed and is not
    there is no error: two writers may remove the same image. Fields stay with their image until
    they are replaced or the image is removed.

    Raises: DatasetError: no image would be left to be searched; a field is no plain value.
    """
    wanted = _fold(changes)
    there = {entry.image_id for entry in former.listing if entry.image_id in wanted.images}
    gone = {image_id for image_id in there if wanted.images[image_id] is None}
    put = {image_id: path for image_id, path in wanted.images.items() if path is not None}
    for image_id in put:
        check_image_id(image_id, put[image_id])
    fresh = _read(galleries_folder, put)
    added = [fresh[image_id] for image_id in put if image_id not in there]
    searchable = former.searchable + len(added)
    if gone:
        first = (former.listing[row].image_id for row in range(former.searchable))
        searchable -= sum(image_id in gone for image_id in first)
    if searchable < 1:
        raise DatasetError(
            "no image would be left in the gallery: add one, or delete the gallery itself"
        )

    def rows() -> Iterator[GalleryRow]:
        for row, entry in enumerate(former.listing):
            if row == former.searchable:
                yield from added
            if entry.image_id not in gone:
                yield fresh.get(entry.image_id, entry)
        if former.searchable == len(former):
            yield from added

    expected = len(former) - len(gone) + len(added)
    gallery = write_listing(galleries_folder, rows(), searchable, expected, progress)
    if gallery.key != former.key:
        (gallery.folder / VERSION_MARK).touch()
    _carry_metadata(former, gallery, wanted.fields, gone)
    return ChangedGallery(gallery, len(put), len(gone))


def folder_change(
    benchmark: Benchmark, gallery: Gallery, folder: Path, put: Mapping[str, str]
) -> GalleryChange:
    """What makes a gallery what its folder holds by now; images of other places stay.

    Args:
        benchmark: the folder as it is read now.
        gallery: the version that is there.
        folder: the absolute path of the folder.
        put: id -> path of images that changes after that version put; None of them is looked at.
    """
    listed = {image_id: str(path.absolute()) for image_id, path in benchmark.images}
    removed = []
    for entry in gallery.listing:
        path = listed.get(entry.image_id)
        if path is None:
            if Path(entry.path).is_relative_to(folder) and entry.image_id not in put:
                removed.append(entry.image_id)
        elif entry.path == path and _is_as_listed(entry):
            del listed[entry.image_id]
    known = read_metadata(gallery)
    fields = {
        image_id: dict(benchmark.metadata.get(image_id, {}))
        for image_id, _ in benchmark.images
        if benchmark.metadata.get(image_id, {}) != known.get(image_id, {})
    }
    return GalleryChange(
        put=tuple(PutImage(image_id, path) for image_id, path in listed.items()),
        removed=tuple(removed),
        fields=fields,
    )


def _fold(changes: Iterable[GalleryChange]) -> _Wanted:
    """Later changes win."""
    wanted = _Wanted({}, {})
    for change in changes:
        for image_id in change.removed:
            wanted.images[image_id] = None
            wanted.fields.pop(image_id, None)
        for image in change.put:
            wanted.images[image.image_id] = image.path
        wanted.fields.update(change.fields)
    return wanted


def _read(galleries_folder: Path, put: Mapping[str, str]) -> dict[str, GalleryRow]:
    images = [(image_id, Path(path)) for image_id, path in put.items()]
    return {entry.image_id: entry for entry in read_rows(galleries_folder, images)}


def _carry_metadata(
    former: Gallery, gallery: Gallery, changed: Mapping[str, Fields], gone: set[str]
) -> None:
    known = read_metadata(former)
    if not known and not changed:
        return
    there = set(gallery.image_ids)
    kept = {name: fields for name, fields in known.items() if name in there and name not in gone}
    kept.update({name: fields for name, fields in changed.items() if name in there})
    write_metadata(gallery, kept)


def _is_as_listed(entry: GalleryRow) -> bool:
    """Whether the file is the image that is listed, or still none."""
    try:
        if entry.failure:
            inspect_image(entry.path)
            return False
        return is_unchanged(entry)
    except ItemError:
        return bool(entry.failure)
