"""CIRCO: open-domain queries on 123,403 photographs, several targets each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from shared.datasets.annotation_files import (
    ImagesAbsentError,
    dataset_folder,
    first_file,
    folder_holding,
    inside,
    listed,
    read_json,
)
from shared.datasets.benchmark import Protocol, Query
from shared.datasets.coco_unlabeled import FOLDER, image_folders
from shared.datasets.folder import image_files
from shared.datasets.images import Images
from shared.datasets.source import DatasetSource, GalleryList, LocatedQuery, OfficialCounts
from shared.errors import DatasetError

NAME = "CIRCO"
IMAGE_LIST = "image_info_unlabeled2017.json"
_GALLERY = 123_403


class _Entry(msgspec.Struct, frozen=True):
    id: int
    reference_img_id: int
    relative_caption: str
    target_img_id: int | None = None
    gt_img_ids: tuple[int, ...] = ()
    semantic_aspects: tuple[str, ...] = ()


class _ImageInfo(msgspec.Struct, frozen=True):
    id: int
    file_name: str


class _ImageList(msgspec.Struct, frozen=True):
    images: list[_ImageInfo]


def read_queries(split: str, data_root: Path) -> Iterator[LocatedQuery]:
    """The queries of {annotations,captions}/{split}.json; the single target comes first."""
    folder = dataset_folder(data_root, NAME)
    path = first_file(
        f"the annotation file of {NAME} {split}",
        [folder / place / f"{split}.json" for place in ("annotations", "captions", ".")],
    )
    for position, entry in enumerate(read_json(path, list[_Entry])):
        where = f"{path}, entry {position} (id {entry.id})"
        targets = dict.fromkeys(entry.gt_img_ids)
        single = entry.target_img_id
        if single is not None and targets and single not in targets:
            raise DatasetError(f"{where}: target_img_id {single} is not among gt_img_ids")
        targets = dict.fromkeys((*(() if single is None else (single,)), *targets))
        yield LocatedQuery(
            where,
            Query(
                query_id=str(entry.id),
                reference_id=str(entry.reference_img_id),
                modification_text=entry.relative_caption,
                target_ids=tuple(map(str, targets)),
                aspects=tuple(dict.fromkeys(entry.semantic_aspects)),
            ),
        )


def read_gallery(split: str, data_root: Path) -> GalleryList:
    """The images of image_info_unlabeled2017.json; ids are COCO's numbers, without zeros in front.

    Without that file whatever lies in the image folder is searched, which is said as a deviation.
    """
    folders = image_folders(data_root, NAME)
    places = dict.fromkeys(
        path
        for folder in folders
        for path in (folder.parent / "annotations" / IMAGE_LIST, folder.parent / IMAGE_LIST)
    )
    path = next((path for path in places if path.is_file()), None)
    if path is None:
        return _whatever_lies_there(folders, list(places))
    infos = read_json(path, _ImageList).images
    files = [inside(info.file_name, f"{path}, image {info.id}") for info in infos]
    ids = [str(info.id) for info in infos]
    return GalleryList(Images(folder_holding(files, folders), ids, files), path)


def _whatever_lies_there(folders: Sequence[Path], places: Sequence[Path]) -> GalleryList:
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise ImagesAbsentError(
            f"neither the list of the gallery's images nor the images are there; looked for"
            f" {listed([*places, *folders])}"
        )
    files = image_files(folder)
    ids = []
    for file in files:
        stem = file.split(".", 1)[0]
        if not (stem.isascii() and stem.isdigit()):
            raise DatasetError(f"{folder / file}: not named by a number, as COCO's images are")
        ids.append(str(int(stem)))
    deviation = f"the gallery is what lies in {FOLDER}/, as {IMAGE_LIST} is missing"
    deviations = (f"{deviation} (looked for {listed(places)})",)
    return GalleryList(Images(folder, ids, files), folder, deviations)


SOURCE = DatasetSource(
    name=NAME,
    folder=NAME,
    official={"val": OfficialCounts(220, _GALLERY), "test": OfficialCounts(800, _GALLERY)},
    protocol=Protocol(
        exclude_reference=False,
        recall_ks=(5, 10, 25, 50),
        map_ks=(5, 10, 25, 50),
        recall_targets="first",
        submission="circo",
    ),
    read_queries=read_queries,
    read_gallery=read_gallery,
)
