"""VisDial as a retrieval task: dialogues about one photograph, searched among 50,000 each round."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from shared.datasets import coco_unlabeled
from shared.datasets.annotation_files import (
    dataset_folder,
    first_file,
    folder_holding,
    inside,
    read_json,
)
from shared.datasets.benchmark import Protocol, Query
from shared.datasets.images import Images
from shared.datasets.source import DatasetSource, GalleryList, LocatedQuery, OfficialCounts

NAME = "VisDial"
ROUNDS = 11
"""Round 0 is the caption alone, each later one a question with its answer."""
_DIALOGUES = 2_064
_QUERIES = "VisDial_v1.0_queries_{split}.json"
_GALLERY = "Search_Space_{split}_50k.json"


class _Dialogue(msgspec.Struct, frozen=True):
    img: str
    dialog: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


def read_queries(split: str, data_root: Path) -> Iterator[LocatedQuery]:
    """One query per round, dialogue by dialogue; a query holds its own round's text only."""
    path = _annotation(data_root, _QUERIES.format(split=split), "dialogues")
    for number, dialogue in enumerate(read_json(path, list[_Dialogue])):
        previous = ""
        for spoken, text in enumerate(dialogue.dialog):
            query = Query(
                query_id=f"{number}/r{spoken}",
                reference_id=None,
                modification_text=text,
                target_ids=(dialogue.img,),
                dialogue_id=str(number),
                round=spoken,
                previous_id=previous,
            )
            previous = query.query_id
            yield LocatedQuery(f"{path}, dialogue {number}, round {spoken}", query)


def read_gallery(split: str, data_root: Path) -> GalleryList:
    """The images of the search space; their ids are as listed, e.g. unlabeled2017/0000.jpg."""
    path = _annotation(data_root, _GALLERY.format(split=split), "ChatIR_Protocol")
    ids = read_json(path, list[str])
    files = [inside(image_id, f"{path}, entry {n}") for n, image_id in enumerate(ids)]
    parents = [folder.parent for folder in coco_unlabeled.image_folders(data_root, NAME)]
    folder = folder_holding(files, parents)
    return GalleryList(Images(folder, files, files), path)


def _annotation(data_root: Path, file: str, subfolder: str) -> Path:
    home = dataset_folder(data_root, NAME)
    return first_file(f"the file {file} of {NAME}", [home / file, home / subfolder / file])


SOURCE = DatasetSource(
    name=NAME,
    folder=NAME,
    official={"val": OfficialCounts(_DIALOGUES * ROUNDS, 50_000)},
    protocol=Protocol(exclude_reference=False, recall_ks=(), hits_ks=(10,)),
    read_queries=read_queries,
    read_gallery=read_gallery,
)
