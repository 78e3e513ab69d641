"""The demo benchmark: rendered scenes and queries whose every target is known."""

from __future__ import annotations

from pathlib import Path

from shared.datasets.annotation_files import MissingFilesError
from shared.datasets.benchmark import Benchmark, Protocol
from shared.datasets.folder import read_gallery_list
from shared.datasets.query_lines import read_queries
from shared.datasets.source import check_images

NAME = "demo"
PROTOCOL = Protocol(exclude_reference=True, recall_ks=(1, 5, 10, 50), map_ks=(5, 10, 25, 50))


def load_demo(split: str, data_root: Path) -> Benchmark:
    """Read `<data_root>/demo`: gallery.jsonl, queries.jsonl, images/.

    The reference is excluded: most demo modifications leave so much as it is that the reference is
    the best match of any similarity.

    Raises: DatasetError: the folder is missing (and how it is written) or malformed.
    """
    folder = data_root / NAME
    if not (folder / "gallery.jsonl").is_file():
        raise MissingFilesError(f"no demo benchmark in {folder}; `xr demo-data` writes it")
    listing = folder / "gallery.jsonl"
    images = read_gallery_list(listing)
    located = list(read_queries(folder / "queries.jsonl"))
    check_images(located, images, listing)
    return Benchmark(
        name=NAME,
        split=split,
        images=images,
        searchable=len(images),
        queries=tuple(query for _, query in located),
        protocol=PROTOCOL,
    )
