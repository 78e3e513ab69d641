"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from shared.datasets.benchmark import Benchmark
from shared.datasets.demo import load_demo
from shared.datasets.folder import load_folder
from shared.errors import DatasetError

Loader = Callable[[str, Path], Benchmark]
"""(split, data root) -> the benchmark."""

_LOADERS: dict[str, Loader] = {"demo": load_demo}
_FOLDER_PREFIX = "folder:"


def known_datasets() -> tuple[str, ...]:
    return (*sorted(_LOADERS), f"{_FOLDER_PREFIX}PATH")


def load_dataset(name: str, split: str, data_root: Path) -> Benchmark:
    """Read a data set's listing and queries; images are not opened.

    Args:
        name: a known name, or "folder:PATH" for a folder of one's own (relative to `data_root`).
        split: e.g. "val"; the demo and folders have one split, whose name is free.
        data_root: the folder of the data sets.
    Raises: DatasetError: an unknown name or split, missing or malformed files.
    """
    if name.startswith(_FOLDER_PREFIX):
        return load_folder(data_root / name.removeprefix(_FOLDER_PREFIX), split)
    loader = _LOADERS.get(name)
    if loader is None:
        raise DatasetError(f"unknown data set {name!r}; known: {', '.join(known_datasets())}")
    return loader(split, data_root)
