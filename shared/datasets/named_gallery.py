"""A version of a named gallery as a data set: "gallery:NAME@VERSION".

The images are those of the version, whatever has become of the gallery since. Queries and captions
are those of the folder that the gallery was made of, where it has some.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from shared.datasets.benchmark import Benchmark
from shared.datasets.folder import CAPTIONS, FOLDER_PREFIX, QUERIES, captions_of, protocol_of
from shared.datasets.images import Images
from shared.datasets.query_lines import read_queries
from shared.datasets.source import check_images
from shared.errors import DatasetError
from shared.galleries import Gallery, open_gallery
from shared.gallery_versions import GalleryHistory
from shared.named_galleries import NamedGallery, find_named

GALLERY_PREFIX = "gallery:"

_NAME = re.compile(r"(?P<name>[^@]+)(@(?P<version>[1-9]\d{0,7}))?")


class GalleryName(NamedTuple):
    """A gallery and one of its versions; 0 = the current one."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{GALLERY_PREFIX}{self.name}" + (f"@{self.version}" if self.version else "")


def gallery_name(dataset: str) -> GalleryName | None:
    """What "gallery:NAME@VERSION" names; None for a data set that is no gallery.

    Raises: DatasetError: it cannot be one.
    """
    if not dataset.startswith(GALLERY_PREFIX):
        return None
    match = _NAME.fullmatch(dataset.removeprefix(GALLERY_PREFIX))
    if match is None:
        raise DatasetError(f"{dataset!r} names no gallery: write {GALLERY_PREFIX}NAME@VERSION")
    return GalleryName(match["name"], int(match["version"] or 0))


def history_of(home: Path, name: str) -> GalleryHistory:
    """Raises: DatasetError: there is no gallery of this name."""
    named = find_named(home / "named_galleries", name)
    if named is None:
        raise DatasetError(f"there is no gallery {name!r}; `xr gallery list` shows those there are")
    return GalleryHistory(home, named)


def source_folder(named: NamedGallery, data_root: Path) -> Path:
    """The absolute path of the folder that a gallery was made of."""
    inner = named.dataset.removeprefix(FOLDER_PREFIX)
    return Path(os.path.abspath(data_root / inner))  # noqa: PTH100 - as listings have it


def load_named_gallery(dataset: str, split: str, data_root: Path, home: Path) -> Benchmark:
    """The version that "gallery:NAME@VERSION" names.

    Raises: DatasetError: no such gallery or version; a query of its folder that names an image
        which that version does not have.
    """
    wanted = gallery_name(dataset)
    assert wanted is not None
    history = history_of(home, wanted.name)
    if wanted.version:
        version = history.version(wanted.version)
    else:
        current = history.current()
        if current is None:
            raise DatasetError(f"gallery {wanted.name} is not indexed yet")
        version = current
    gallery = open_gallery(home / "galleries", version.gallery)
    name = GalleryName(wanted.name, version.number)
    return gallery_benchmark(name, split, gallery, source_folder(history.named, data_root))


def gallery_benchmark(
    name: GalleryName, split: str, gallery: Gallery, folder: Path, *, ask: bool = True
) -> Benchmark:
    """A gallery that is written, with the queries and captions of its folder.

    Args:
        ask: leave the queries out when false.
    """
    has_captions = (folder / CAPTIONS).is_file()
    ids, files, own = [], [], set()
    for entry in gallery.listing:
        ids.append(entry.image_id)
        files.append(entry.path.lstrip("/"))
        if has_captions and Path(entry.path).is_relative_to(folder):
            own.add(entry.image_id)
    images = Images(Path("/"), ids, files)
    located = list(read_queries(folder / QUERIES)) if ask and (folder / QUERIES).exists() else []
    check_images(located, images, gallery.folder)
    queries = tuple(query for _, query in located)
    return Benchmark(
        name=str(name),
        split=split,
        images=images,
        searchable=gallery.searchable,
        queries=queries,
        protocol=protocol_of(queries),
        captions=captions_of(folder / CAPTIONS, own, strict=False),
        gallery=gallery.key,
    )
