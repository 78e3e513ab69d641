"""A user's own folder: its images, and queries in `queries.jsonl` when there is one."""

from __future__ import annotations

import os
from pathlib import Path

from shared.datasets.benchmark import Benchmark, Protocol
from shared.datasets.query_lines import read_queries
from shared.errors import DatasetError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
QUERIES = "queries.jsonl"
_RECALL_KS = (1, 5, 10, 50)
_MAP_KS = (5, 10, 25, 50)
_SUBSET_KS = (1, 2, 3)


def load_folder(folder: Path, split: str = "all") -> Benchmark:
    """Read a folder; an image's id is its path within the folder, with forward slashes.

    The metrics are those the queries have ground truth for: mAP when a query has several targets,
    Recall_subset when a query has a subset. References stay in the gallery.

    Raises: DatasetError: no such folder, no images in it, or a malformed query.
    """
    images = list_images(folder)
    queries_file = folder / QUERIES
    ids = {image_id for image_id, _ in images}
    queries = read_queries(queries_file, ids) if queries_file.exists() else ()
    return Benchmark(
        name=folder.name,
        split=split,
        images=images,
        searchable=len(images),
        queries=queries,
        protocol=Protocol(
            exclude_reference=False,
            recall_ks=_RECALL_KS,
            map_ks=_MAP_KS if any(len(query.target_ids) > 1 for query in queries) else (),
            subset_ks=_SUBSET_KS if any(query.subset_ids for query in queries) else (),
        ),
    )


def list_images(folder: Path) -> tuple[tuple[str, Path], ...]:
    """(id, path) of every image file below `folder`, sorted by id; hidden names are left out.

    Links to folders are not followed: they may lead in circles.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder")
    found: list[tuple[str, Path]] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            (Path(parent, name).relative_to(folder).as_posix(), Path(parent, name))
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
        ]
    if not found:
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DatasetError(f"no images in {folder}; files ending in {kinds} are looked for")
    return tuple(sorted(found))
