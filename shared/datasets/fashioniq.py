"""FashionIQ: product photographs of dresses, shirts and tops, two captions per query."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from shared.datasets.annotation_files import dataset_folder, first_file, inside, read_json
from shared.datasets.benchmark import Protocol, Query
from shared.datasets.images import Images
from shared.datasets.source import DatasetSource, GalleryList, LocatedQuery, OfficialCounts

NAME = "FashionIQ"
SUFFIXES = (".png", ".jpg")
"""The official download has .png files, most copies .jpg; where both are, the first counts."""


class _Entry(msgspec.Struct, frozen=True):
    candidate: str
    target: str
    captions: tuple[str, ...]


def _read_queries(category: str) -> Callable[[str, Path], Iterator[LocatedQuery]]:
    def read(split: str, data_root: Path) -> Iterator[LocatedQuery]:
        path = _annotation(data_root, "captions", f"cap.{category}.{split}.json")
        for position, entry in enumerate(read_json(path, list[_Entry])):
            query = Query(
                query_id=f"{category}-{position}",
                reference_id=entry.candidate,
                modification_text=join_captions(entry.captions),
                target_ids=(entry.target,),
            )
            yield LocatedQuery(f"{path}, entry {position}", query)

    return read


def join_captions(captions: tuple[str, ...]) -> str:
    """The captions in the file's order, joined with "and"; empty ones add nothing."""
    return " and ".join(caption for caption in (text.strip() for text in captions) if caption)


def _read_gallery(category: str) -> Callable[[str, Path], GalleryList]:
    def read(split: str, data_root: Path) -> GalleryList:
        path = _annotation(data_root, "image_splits", f"split.{category}.{split}.json")
        folder = dataset_folder(data_root, NAME) / "images"
        ids = read_json(path, list[str])
        there = folder.is_dir()
        stems = (inside(image_id, f"{path}, entry {n}") for n, image_id in enumerate(ids))
        files = [_file_of(folder, stem) if there else stem + SUFFIXES[0] for stem in stems]
        return GalleryList(Images(folder, ids, files), path)

    return read


def _file_of(folder: Path, stem: str) -> str:
    """The image's file; one that has none is looked for, and missed, under the first suffix."""
    for suffix in SUFFIXES:
        if (folder / f"{stem}{suffix}").is_file():
            return stem + suffix
    return stem + SUFFIXES[0]


def _annotation(data_root: Path, folder: str, file: str) -> Path:
    home = dataset_folder(data_root, NAME)
    return first_file(f"the file {file} of {NAME}", [home / folder / file])


def _source(category: str, queries: int, gallery: int) -> DatasetSource:
    return DatasetSource(
        name=f"{NAME}-{category}",
        folder=NAME,
        official={"val": OfficialCounts(queries, gallery)},
        protocol=Protocol(exclude_reference=False, recall_ks=(10, 50)),
        read_queries=_read_queries(category),
        read_gallery=_read_gallery(category),
    )


SOURCES = (
    _source("dress", 2_017, 3_817),
    _source("shirt", 2_038, 6_346),
    _source("toptee", 1_961, 5_373),
)
