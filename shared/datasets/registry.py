"""Data sets by name."""

from __future__ import annotations

from pathlib import Path

from shared.datasets import circo, cirr, demo, fashioniq, flickr30k, mscoco, visdial
from shared.datasets.benchmark import Benchmark
from shared.datasets.folder import FOLDER_PREFIX as FOLDER_PREFIX
from shared.datasets.folder import load_folder
from shared.datasets.named_gallery import GALLERY_PREFIX, load_named_gallery
from shared.datasets.source import DatasetSource, load
from shared.errors import DatasetError

SOURCES: dict[str, DatasetSource] = {
    source.name.lower(): source
    for source in (
        circo.SOURCE,
        cirr.SOURCE,
        *fashioniq.SOURCES,
        flickr30k.SOURCE,
        mscoco.SOURCE,
        visdial.SOURCE,
    )
}
"""The field's data sets by their lower-case names."""


def known_datasets() -> tuple[str, ...]:
    """What `load_dataset` accepts; the case of a name does not matter."""
    return (
        *sorted([*SOURCES, demo.NAME]),
        f"{FOLDER_PREFIX}PATH",
        f"{GALLERY_PREFIX}NAME@VERSION",
    )


def canonical_name(name: str) -> str:
    """The one spelling of a data set's name, e.g. "fashioniq-dress" for "FashionIQ-dress".

    Raises: DatasetError: there is no such data set; names those there are.
    """
    if name.startswith((FOLDER_PREFIX, GALLERY_PREFIX)):
        return name
    if name.lower() not in SOURCES and name.lower() != demo.NAME:
        raise DatasetError(f"unknown data set {name!r}; known: {', '.join(known_datasets())}")
    return name.lower()


def folder_of(name: str, data_root: Path, also: Path | None = None) -> Path:
    """The folder that "folder:PATH" names, for services that others may ask.

    Args:
        also: another folder it may lie in, then by its absolute path.
    Raises: DatasetError: it lies outside the data root, also by way of links, or is no path.
    """
    inner = name.removeprefix(FOLDER_PREFIX)
    try:
        root, folder = data_root.resolve(), (data_root / inner).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # too long, NUL, links in a circle
        raise DatasetError(f"data set {name!r} is no path: {error}") from error
    if also is not None and folder.is_relative_to(also.resolve()):
        return folder
    if not folder.is_relative_to(root):
        raise DatasetError(f"data set {name!r} lies outside the data root {root}")
    return data_root / inner


def load_dataset(name: str, split: str, data_root: Path, home: Path | None = None) -> Benchmark:
    """Read a data set's listing and queries; images are not opened.

    Args:
        name: a known name, "folder:PATH" for a folder of one's own (relative to `data_root`), or
            "gallery:NAME@VERSION" for a version of a named gallery (without @VERSION the current
            one).
        split: e.g. "val"; the demo, folders and galleries have one split, whose name is free.
        data_root: the folder of the data sets.
        home: XR_HOME, where named galleries are.
    Raises: DatasetError: an unknown name or split, missing or malformed files.
    """
    name = canonical_name(name)
    if name.startswith(FOLDER_PREFIX):
        return load_folder(data_root / name.removeprefix(FOLDER_PREFIX), split)
    if name.startswith(GALLERY_PREFIX):
        if home is None:
            raise DatasetError(f"{name} is no data set of {data_root}: it is a gallery of XR_HOME")
        return load_named_gallery(name, split, data_root, home)
    if name == demo.NAME:
        return demo.load_demo(split, data_root)
    return load(SOURCES[name], split, data_root)
