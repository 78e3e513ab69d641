"""What lies on the shared volume: image databases, galleries, and the runs that refer to them."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from shared.errors import MALFORMED, DatasetError
from shared.galleries import META, GalleryMeta
from shared.image_database import KEY_PATTERN, MANIFEST, PARTS, Manifest
from shared.image_database_parts import gallery_being_built, is_being_built
from shared.index_choice import read_choice
from shared.settings import Settings


class RunReference(NamedTuple):
    """What a run's manifest says it used. A run that only built the index does not use it."""

    run: str
    dataset: str
    gallery: str
    database: str
    index_only: bool


class DatabaseEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One image database.

    Attributes:
        state: "finished", "unfinished" (a build to be resumed), "building" (a builder lives) or
            "damaged".
        datasets: "name/split" of the runs that refer to it.
        captions, failed_rows: images that have a caption; images that lack something.
        captioner, clip: short names of what made it.
        retries: versions before this one.
        index: what it is ranked by, with the recall of an index that is not exact.
        last_used: UTC, ISO 8601.
        runs: the benchmark runs that refer to it.
        problem: what is damaged.
    """

    key: str
    state: Literal["finished", "unfinished", "building", "damaged"]
    gallery: str = ""
    datasets: tuple[str, ...] = ()
    images: int = 0
    captions: int = 0
    failed_rows: int = 0
    captioner: str = ""
    clip: str = ""
    retries: int = 0
    index: str = ""
    size_bytes: int = 0
    last_used: str = ""
    runs: tuple[str, ...] = ()
    problem: str = ""


class GalleryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One gallery; `databases` are those of its images."""

    key: str
    images: int = 0
    failed_images: int = 0
    size_bytes: int = 0
    last_used: str = ""
    databases: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    problem: str = ""


class Inventory(msgspec.Struct, frozen=True):
    databases: tuple[DatabaseEntry, ...]
    galleries: tuple[GalleryEntry, ...]


def take_inventory(settings: Settings) -> Inventory:
    """Everything there is, last used first; changes nothing."""
    references = list(read_references(settings.runs_folder))
    databases = [_database(path, references) for path in keyed_folders(settings.image_db_folder)]
    galleries = [
        _gallery(path, references, databases) for path in keyed_folders(settings.galleries_folder)
    ]
    return Inventory(
        tuple(sorted(databases, key=lambda entry: entry.last_used, reverse=True)),
        tuple(sorted(galleries, key=lambda entry: entry.last_used, reverse=True)),
    )


def read_references(runs_folder: Path) -> Iterator[RunReference]:
    """What every run refers to; runs that have no manifest yet, or a damaged one, are left out."""
    for path in sorted(runs_folder.glob("*/*/manifest.json")):
        try:
            manifest = json.loads(path.read_bytes())
            request = json.loads(path.with_name("request.json").read_bytes())
            yield RunReference(
                run=f"{path.parent.parent.name}~{path.parent.name}",
                dataset=f"{manifest['dataset']}/{manifest['split']}",
                gallery=manifest["gallery"]["key"],
                database=manifest["database"]["key"],
                index_only=bool(request.get("index_only", False)),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue


def keyed_folders(folder: Path) -> list[Path]:
    """The folders named by a key, in the order of their names."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if KEY_PATTERN.fullmatch(path.name))


def last_used_s(folder: Path) -> float:
    """Seconds since 1970 of the last use, or of the last part written."""
    times = [0.0]
    for path in (folder, folder / PARTS):
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


def size_bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    total = 0
    for file in files if path.is_dir() else [path]:
        with contextlib.suppress(OSError):  # removed meanwhile
            total += file.stat().st_size
    return total


def name_of(identity: Mapping[str, Any]) -> str:
    """A short name of a captioner or a CLIP: its checkpoint's."""
    for field in ("checkpoint", "model", "identity"):
        if name := str(identity.get(field, "")).rstrip("/"):
            given = " + given captions" if "given_captions" in identity else ""
            return name.rsplit("/", 1)[-1] + given
    return "given captions" if "given_captions" in identity else "unnamed"


def _database(folder: Path, references: list[RunReference]) -> DatabaseEntry:
    key = folder.name
    mine = [reference for reference in references if reference.database == key]
    entry = DatabaseEntry(
        key=key,
        state="unfinished",
        gallery=gallery_being_built(folder / PARTS),
        datasets=tuple(sorted({reference.dataset for reference in mine})),
        runs=tuple(reference.run for reference in mine if not reference.index_only),
        size_bytes=size_bytes(folder),
        last_used=_iso(last_used_s(folder)),
    )
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError:
        if is_being_built(folder / PARTS):
            return msgspec.structs.replace(entry, state="building")
        return entry
    except (OSError, *MALFORMED) as error:
        return msgspec.structs.replace(entry, state="damaged", problem=f"{MANIFEST}: {error}")
    try:
        index = read_choice(folder).summary()
    except DatasetError as error:
        return msgspec.structs.replace(entry, state="damaged", problem=str(error))
    without_caption = {
        failure.row for failure in manifest.failures if failure.step in ("image", "caption")
    }
    return msgspec.structs.replace(
        entry,
        state="finished",
        gallery=manifest.gallery,
        images=manifest.rows,
        captions=manifest.rows - len(without_caption),
        failed_rows=len({failure.row for failure in manifest.failures}),
        captioner=name_of(manifest.captioner),
        clip=name_of(manifest.clip),
        retries=manifest.retries,
        index=index,
    )


def _gallery(
    folder: Path, references: list[RunReference], databases: list[DatabaseEntry]
) -> GalleryEntry:
    key = folder.name
    entry = GalleryEntry(
        key=key,
        size_bytes=size_bytes(folder),
        last_used=_iso(last_used_s(folder)),
        databases=tuple(database.key for database in databases if database.gallery == key),
        runs=tuple(
            reference.run
            for reference in references
            if reference.gallery == key and not reference.index_only
        ),
    )
    try:
        meta = msgspec.json.decode((folder / META).read_bytes(), type=GalleryMeta)
    except (OSError, *MALFORMED) as error:
        return msgspec.structs.replace(entry, problem=f"{META}: {error}")
    return msgspec.structs.replace(entry, images=meta.rows, failed_images=len(meta.failures))


def find_database(inventory: Inventory, prefix: str) -> DatabaseEntry:
    """The database whose key begins with `prefix`.

    Raises: DatasetError: there is none, or more than one.
    """
    found = [entry for entry in inventory.databases if entry.key.startswith(prefix)]
    if len(found) != 1:
        raise DatasetError(
            f"{len(found) or 'no'} image databases have a key that begins with {prefix!r};"
            " `xr index list` shows those there are"
        )
    return found[0]


def _iso(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="seconds")
