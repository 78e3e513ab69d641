"""The demo benchmark: rendered scenes and queries whose every target is known."""

from __future__ import annotations

from pathlib import Path

import msgspec

from shared.datasets.benchmark import Benchmark, Protocol
from shared.datasets.query_lines import read_lines, read_queries
from shared.errors import DatasetError

PROTOCOL = Protocol(exclude_reference=True, recall_ks=(1, 5, 10, 50), map_ks=(5, 10, 25, 50))


class _ImageLine(msgspec.Struct, frozen=True):
    image_id: str
    file: str


def load_demo(split: str, data_root: Path) -> Benchmark:
    """Read `<data_root>/demo`: gallery.jsonl, queries.jsonl, images/.

    The reference is excluded: most demo modifications leave so much as it is that the reference is
    the best match of any similarity.

    Raises: DatasetError: the folder is missing (and how it is written) or malformed.
    """
    folder = data_root / "demo"
    if not (folder / "gallery.jsonl").exists():
        raise DatasetError(f"no demo benchmark in {folder}; `xr demo-data` writes it")
    images = tuple(
        (line.image_id, _inside(folder, line.file, number))
        for number, line in read_lines(folder / "gallery.jsonl", _ImageLine)
    )
    return Benchmark(
        name="demo",
        split=split,
        images=images,
        searchable=len(images),
        queries=read_queries(folder / "queries.jsonl", {image_id for image_id, _ in images}),
        protocol=PROTOCOL,
    )


def _inside(folder: Path, file: str, number: int) -> Path:
    relative = Path(file)
    if relative.is_absolute() or ".." in relative.parts:
        raise DatasetError(
            f"{folder / 'gallery.jsonl'}, line {number}: {file!r} lies outside the folder"
        )
    return folder / relative
