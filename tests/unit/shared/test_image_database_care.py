"""Listing, checking and clearing away image databases."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agents.stores import Databases
from shared.contracts.skills import ItemFailure
from shared.errors import DatasetError
from shared.galleries import Gallery
from shared.image_database import ImageDatabase
from shared.image_database_check import Finding, check_image_database
from shared.image_database_cleanup import find_removable, remove
from shared.image_database_inventory import find_database, take_inventory
from shared.image_database_parts import is_being_built
from shared.settings import Settings
from tests.unit.shared.index_scenes import (
    a_caption,
    make_database,
    make_gallery,
    make_writer,
)

DAY_S = 24 * 3600.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    return make_gallery(tmp_path, 10, missing=4)


@pytest.fixture
def database(tmp_path: Path, gallery: Gallery) -> ImageDatabase:
    """Row 4 has no image, row 5 no caption."""
    return make_database(
        tmp_path, gallery, lambda row: ItemFailure("slow") if row == 5 else a_caption(row)
    )


def record_run(home: Path, database: ImageDatabase, name: str, index_only: bool = False) -> None:
    folder = home / "runs" / "CIRR_val" / name
    folder.mkdir(parents=True)
    manifest = {
        "dataset": "CIRR",
        "split": "val",
        "gallery": {"key": database.gallery_key},
        "database": {"key": database.key},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "request.json").write_text(json.dumps({"index_only": index_only}))


def age(folder: Path, days: float) -> None:
    """As if nothing in it had been touched for so long."""
    then = time.time() - days * DAY_S
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (then, then))


def check(settings: Settings, key: str, read_images: bool = False) -> list[Finding]:
    return list(
        check_image_database(settings.image_db_folder, settings.galleries_folder, key, read_images)
    )


def removed(settings: Settings, unused_days: float) -> list[str]:
    """Kinds of what a clean-up took away."""
    found = find_removable(settings, unused_days * DAY_S)
    return [removal.kind for removal in found if remove(removal)]


# --- list -----------------------------------------------------------------------------------------


def test_the_inventory_says_what_each_database_is_and_who_uses_it(
    settings: Settings, gallery: Gallery, database: ImageDatabase
) -> None:
    record_run(settings.home, database, "vit-run_1")
    record_run(settings.home, database, "vit-index_1", index_only=True)
    inventory = take_inventory(settings)
    (entry,), (of_images,) = inventory.databases, inventory.galleries
    assert (entry.key, entry.state, entry.gallery) == (database.key, "finished", gallery.key)
    assert (entry.images, entry.captions, entry.failed_rows) == (10, 8, 2)
    assert (entry.captioner, entry.clip, entry.datasets) == ("tiny", "vit", ("CIRR/val",))
    assert entry.runs == ("CIRR_val~vit-run_1",)
    assert entry.size_bytes == sum(path.stat().st_size for path in database.folder.iterdir())
    assert (of_images.images, of_images.failed_images) == (10, 1)
    assert (of_images.databases, of_images.runs) == ((database.key,), entry.runs)
    assert find_database(inventory, database.key[:6]) == entry
    with pytest.raises(DatasetError, match="xr index list"):
        find_database(inventory, "nothing")


def test_unfinished_and_damaged_databases_are_told_apart(
    settings: Settings, gallery: Gallery, database: ImageDatabase
) -> None:
    (database.folder / "manifest.json").write_text("{")
    (settings.image_db_folder / ("0" * 32) / "parts").mkdir(parents=True)
    states = {entry.key: entry.state for entry in take_inventory(settings).databases}
    assert states == {database.key: "damaged", "0" * 32: "unfinished"}


# --- verify ---------------------------------------------------------------------------------------


def test_a_sound_database_has_no_findings(settings: Settings, database: ImageDatabase) -> None:
    assert check(settings, database.key) == []
    assert check(settings, database.key, read_images=True) == []


def test_damaged_files_and_rows_are_found(settings: Settings, database: ImageDatabase) -> None:
    matrix = np.load(database.folder / "image_embeddings.npy", mmap_mode="r+")
    matrix[2] = np.nan
    matrix[3] = 0.0
    matrix[4] = 0.5
    matrix.flush()
    captions = (database.folder / "captions.jsonl").read_text().splitlines()
    captions[0], captions[5] = '{"row":0}', '{"row":5,"caption":"x"}'
    (database.folder / "captions.jsonl").write_text("\n".join(captions) + "\n")
    found = check(settings, database.key)
    assert [finding.where for finding in found] == [
        "image_embeddings.npy",
        "captions.jsonl",
        "captions.jsonl, row 0",
        "captions.jsonl, row 5",
        "image_embeddings.npy, row 2",
        "image_embeddings.npy, row 3",
        "image_embeddings.npy, row 4",
    ]
    assert "checksum" in found[0].problem
    assert "nan" in found[4].problem
    assert "failed, but" in found[6].problem


def test_a_cut_off_matrix_is_found(settings: Settings, database: ImageDatabase) -> None:
    path = database.folder / "image_embeddings.npy"
    path.write_bytes(path.read_bytes()[:-10])
    (finding,) = check(settings, database.key)
    assert "image_embeddings.npy" in finding.problem


def test_changed_and_missing_images_are_found(
    settings: Settings, gallery: Gallery, database: ImageDatabase
) -> None:
    paths = [Path(entry.path) for entry in gallery.listing]
    paths[0].unlink()
    Image.new("RGB", (3, 3), (9, 9, 9)).save(paths[1])
    os.utime(paths[2])  # touched, but the same
    stamp = paths[3].stat()
    paths[3].write_bytes(paths[3].read_bytes()[:-1] + b"\0")
    os.utime(paths[3], ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    quick = [finding.problem for finding in check(settings, database.key)]
    assert quick == ["file not found", "has changed since"]
    whole = [finding.where.split()[1] for finding in check(settings, database.key, True)]
    assert whole == ["img0", "img1", "img3"]


def test_another_listing_under_the_gallerys_key_is_found(
    settings: Settings, gallery: Gallery, database: ImageDatabase
) -> None:
    listing = gallery.folder / "gallery.jsonl"
    listing.write_text(listing.read_text().replace("img3", "img33"))
    (finding,) = check(settings, database.key)
    assert "its key" in finding.problem


# --- gc -------------------------------------------------------------------------------------------


def test_what_no_run_refers_to_and_nobody_used_lately_goes(
    settings: Settings, gallery: Gallery, database: ImageDatabase
) -> None:
    record_run(settings.home, database, "vit-index_1", index_only=True)
    age(database.folder, 31)
    age(gallery.folder, 31)
    assert [r.kind for r in find_removable(settings, 30 * DAY_S)] == ["database", "gallery"]
    assert database.folder.is_dir(), "finding removes nothing"
    assert removed(settings, 30) == ["database", "gallery"]
    assert list(settings.image_db_folder.iterdir()) == []
    assert not gallery.folder.exists()


def test_what_a_run_refers_to_or_somebody_used_lately_stays(
    settings: Settings, gallery: Gallery, database: ImageDatabase
) -> None:
    age(gallery.folder, 400)
    assert removed(settings, 30) == [], "the database was used lately, and needs its gallery"
    age(database.folder, 400)
    record_run(settings.home, database, "vit-run_1")
    assert removed(settings, 0) == []


def test_using_a_database_keeps_it(settings: Settings, database: ImageDatabase) -> None:
    age(database.folder, 400)
    found = find_removable(settings, 30 * DAY_S)
    Databases(settings.image_db_folder).database(database.key)
    assert not remove(found[0]), "it was used after it was found"
    assert database.folder.is_dir()


def test_nothing_younger_than_an_hour_goes_whatever_is_asked_for(
    settings: Settings, database: ImageDatabase
) -> None:
    age(database.folder, 0.5 / 24)
    assert removed(settings, 0) == []
    age(database.folder, 2 / 24)
    assert removed(settings, 0) == ["database"]


def test_what_is_being_built_stays_and_what_was_given_up_goes(
    settings: Settings, gallery: Gallery
) -> None:
    writer = make_writer(settings.home, gallery)
    folder = settings.image_db_folder / writer.key
    age(folder, 400)
    age(gallery.folder, 400)
    assert is_being_built(folder / "parts")
    assert take_inventory(settings).databases[0].state == "building"
    assert removed(settings, 0) == []
    del writer
    assert not is_being_built(folder / "parts")
    assert removed(settings, 0) == ["database", "gallery"]


def test_a_builder_that_comes_back_after_a_clean_up_begins_anew(
    settings: Settings, gallery: Gallery
) -> None:
    writer = make_writer(settings.home, gallery)
    writer.add_captions((0, 1, 2), [a_caption(row) for row in range(3)])
    key = writer.key
    del writer
    age(settings.image_db_folder / key, 400)
    assert "database" in removed(settings, 0)
    assert len(make_database(settings.home, gallery)) == 10


def test_leftovers_of_killed_processes_go(settings: Settings, database: ImageDatabase) -> None:
    half = [
        settings.image_db_folder / ".0123.99-ab.tmp",
        database.folder / ".captions.jsonl.99-ab.tmp",
        settings.galleries_folder / ".gallery.jsonl.99-ab.tmp",
    ]
    half[0].mkdir()
    half[1].write_text("x")
    half[2].write_text("x")
    (database.folder / "parts").mkdir()
    (database.folder / "parts" / "plan.msgpack").write_bytes(b"")
    assert removed(settings, 0) == [], "somebody may be writing them"
    for path in [*half, database.folder / "parts"]:
        age(path, 0.1)
    assert removed(settings, 30) == ["leftover"] * 4
    assert sorted(path.name for path in database.folder.iterdir()) == [
        "caption_embeddings.npy",
        "captions.jsonl",
        "image_embeddings.npy",
        "manifest.json",
    ]
