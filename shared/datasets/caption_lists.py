"""Images with their captions, as text-to-image queries: the csv and the json form of such lists."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import msgspec

from shared.datasets.annotation_files import (
    dataset_folder,
    first_file,
    folder_holding,
    inside,
    read_csv,
    read_json,
)
from shared.datasets.benchmark import Protocol, Query
from shared.datasets.images import Images
from shared.datasets.source import DatasetSource, GalleryList, LocatedQuery, OfficialCounts
from shared.errors import DatasetError

PROTOCOL = Protocol(exclude_reference=False, recall_ks=(1, 5, 10))
MAX_LITERAL = 20_000
"""Characters of a cell that are parsed; five captions are some 400."""
_SPLIT = "test"
_COLUMNS = ("filename", "raw")


class CaptionedImage(NamedTuple):
    where: str
    file: str
    captions: Sequence[str]


class _Entry(msgspec.Struct, frozen=True):
    image: str
    captions: tuple[str, ...] = ()
    caption: tuple[str, ...] | str = ()


def caption_source(
    name: str,
    official: OfficialCounts,
    lists: Sequence[str],
    image_folders: Sequence[str],
    known_counts: dict[int, str] | None = None,
) -> DatasetSource:
    """A data set of captioned images: every caption is a query for its image.

    Args:
        lists: file names of the list within the data set's folder, the first that is there counts.
        image_folders: where the images may lie, within the data set's folder.
    """

    def list_file(data_root: Path) -> Path:
        home = dataset_folder(data_root, name)
        return first_file(f"the list of captions of {name}", [home / file for file in lists])

    def read_queries(split: str, data_root: Path) -> Iterator[LocatedQuery]:
        for where, file, captions in read_caption_list(list_file(data_root)):
            image_id = PurePosixPath(file).name
            for number, caption in enumerate(captions):
                query = Query(
                    query_id=f"{image_id}#{number}",
                    reference_id=None,
                    modification_text=caption,
                    target_ids=(image_id,),
                )
                yield LocatedQuery(where, query)

    def read_gallery(split: str, data_root: Path) -> GalleryList:
        path = list_file(data_root)
        files = [inside(image.file, image.where) for image in read_caption_list(path)]
        home = dataset_folder(data_root, name)
        names = [PurePosixPath(file).name for file in files]
        # A list may give "val2014/x.jpg" where the images lie in one folder of any name.
        folder = folder_holding(names, [home / place for place in image_folders])
        return GalleryList(Images(folder, names, names), path)

    return DatasetSource(
        name=name,
        folder=name,
        official={_SPLIT: official},
        protocol=PROTOCOL,
        read_queries=read_queries,
        read_gallery=read_gallery,
        known_counts=known_counts or {},
    )


def read_caption_list(path: Path) -> tuple[CaptionedImage, ...]:
    """The images of a list with their captions, in the file's order.

    A csv file has the columns filename and raw (a list of captions written as a Python or JSON
    list); rows of another split than "test" are left out. A json file is a list of objects with
    `image` and `captions` (or `caption`).

    Raises: DatasetError: names the line or entry.
    """
    found = tuple(_csv_list(path) if path.suffix.lower() == ".csv" else _json_list(path))
    for where, file, captions in found:
        if not captions:
            raise DatasetError(f"{where}: {file!r} has no captions")
    if not found:
        raise DatasetError(f"{path} holds no images of the split {_SPLIT!r}")
    return found


def _csv_list(path: Path) -> Iterator[CaptionedImage]:
    for line, row in read_csv(path, _COLUMNS):
        if row.get("split", _SPLIT) == _SPLIT:
            where = f"{path}, line {line}"
            yield CaptionedImage(where, row["filename"], parse_captions(row["raw"], where))


def _json_list(path: Path) -> Iterator[CaptionedImage]:
    for position, entry in enumerate(read_json(path, list[_Entry])):
        one_or_many = entry.captions or entry.caption
        captions = (one_or_many,) if isinstance(one_or_many, str) else one_or_many
        yield CaptionedImage(f"{path}, entry {position}", entry.image, captions)


def parse_captions(cell: str, where: str) -> list[str]:
    """A list of texts written as a literal; nothing in it is ever evaluated.

    Raises: DatasetError: too long, or anything else than a list of texts; starts with `where`.
    """
    shown = repr(cell if len(cell) <= 60 else f"{cell[:60]}…")
    wanted = f"{where}: column raw holds {shown}; it must be a list of texts, as ['a dog', 'a cat']"
    if len(cell) > MAX_LITERAL:
        raise DatasetError(f"{wanted}, of at most {MAX_LITERAL:,} characters")
    try:
        value = ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise DatasetError(f"{wanted}; code in it is not run") from error
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise DatasetError(wanted)
    return value
