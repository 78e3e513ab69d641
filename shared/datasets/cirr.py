"""CIRR: pairs of real-life photographs, ranked in the whole gallery and among six similar ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from shared.datasets.annotation_files import dataset_folder, first_file, inside, read_json
from shared.datasets.benchmark import Protocol, Query
from shared.datasets.images import Images
from shared.datasets.source import DatasetSource, GalleryList, LocatedQuery, OfficialCounts
from shared.errors import DatasetError

NAME = "CIRR"
_HOMES = (".", "cirr")
"""The annotation folders lie in CIRR itself, or in CIRR/cirr beside the images."""


class _ImageSet(msgspec.Struct, frozen=True):
    members: tuple[str, ...]


class _Entry(msgspec.Struct, frozen=True):
    pairid: int
    reference: str
    caption: str
    img_set: _ImageSet
    target_hard: str | None = None


def read_queries(split: str, data_root: Path) -> Iterator[LocatedQuery]:
    """The queries of cap.rc2.{split}.json; one caption of test1 is empty and stays so.

    The subset is the query's image set without the reference, in the file's order.
    """
    path = _annotation(data_root, split, "captions", f"cap.rc2.{split}.json")
    for position, entry in enumerate(read_json(path, list[_Entry])):
        where = f"{path}, entry {position} (pairid {entry.pairid})"
        members = entry.img_set.members
        if entry.reference not in members or len(set(members)) != len(members):
            raise DatasetError(
                f"{where}: img_set.members must hold the reference, and nothing twice"
            )
        yield LocatedQuery(
            where,
            Query(
                query_id=str(entry.pairid),
                reference_id=entry.reference,
                modification_text=entry.caption,
                target_ids=() if entry.target_hard is None else (entry.target_hard,),
                subset_ids=tuple(member for member in members if member != entry.reference),
            ),
        )


def read_gallery(split: str, data_root: Path) -> GalleryList:
    """The images of split.rc2.{split}.json at the paths it gives, e.g. dev/dev-0-0-img0.png."""
    path = _annotation(data_root, split, "image_splits", f"split.rc2.{split}.json")
    names = read_json(path, dict[str, str])
    files = [inside(file, f"{path}, image {name!r}") for name, file in names.items()]
    return GalleryList(Images(dataset_folder(data_root, NAME), list(names), files), path)


def _annotation(data_root: Path, split: str, folder: str, file: str) -> Path:
    home = dataset_folder(data_root, NAME)
    return first_file(
        f"the file {file} of {NAME} {split}", [home / place / folder / file for place in _HOMES]
    )


SOURCE = DatasetSource(
    name=NAME,
    folder=NAME,
    official={"val": OfficialCounts(4_181, 2_297), "test1": OfficialCounts(4_148, 2_315)},
    protocol=Protocol(
        exclude_reference=True,
        recall_ks=(1, 5, 10, 50),
        subset_ks=(1, 2, 3),
        submission="cirr",
    ),
    read_queries=read_queries,
    read_gallery=read_gallery,
)
