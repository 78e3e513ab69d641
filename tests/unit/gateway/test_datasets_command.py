"""`xr datasets`: the table, the file of broken images, and the exit status."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import run
from shared.datasets import load_dataset
from tests.miniatures import write_circo, write_cirr, write_own_folder, write_visdial
from tests.miniatures.pictures import draw
from tests.official_files import DATA, needs_official_files

Xr = Callable[..., tuple[int, str]]


@pytest.fixture
def xr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Xr:
    """Runs `xr datasets ...` on the data root tmp_path/data; (status, standard output)."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("COLUMNS", "40")  # a pipe has no edge, whatever the terminal has
    monkeypatch.setenv("XR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XR_DATA_ROOT", str(tmp_path / "data"))

    def call(*arguments: str) -> tuple[int, str]:
        status = run(["datasets", *arguments])
        return status, capsys.readouterr().out

    return call


def splits_of(shown: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(one["dataset"], one["split"]): one for one in json.loads(shown)["splits"]}


def test_every_missing_and_broken_image_is_written_down(xr: Xr, tmp_path: Path) -> None:
    # Given a data set with one missing and one broken image a split
    miniature = write_cirr(tmp_path / "data")

    # When it is checked without and with reading the images
    _, plain = xr("check", "CIRR", "--json")
    status, thorough = xr("check", "cirr", "--images", "--json")

    # Then the counts say what was looked at, and the file names each image
    val = splits_of(plain)["CIRR", "val"]
    assert (val["missing"], val["unreadable"], val["images"]) == (1, 0, 13)
    val = splits_of(thorough)["CIRR", "val"]
    assert (val["missing"], val["unreadable"], val["images"]) == (1, 1, 13)
    assert (val["queries"], val["expected_queries"], val["state"]) == (7, 4_181, "wrong")
    assert status == 1
    listing = Path(json.loads(thorough)["image_problems_file"])
    assert listing == tmp_path / "home" / "image_problems.jsonl"
    named = [json.loads(line) for line in listing.read_text(encoding="utf-8").splitlines()]
    assert {(one["split"], one["image_id"]) for one in named} == {
        (split, images[split])
        for split in ("val", "test1")
        for images in (miniature.broken, miniature.missing)
    }
    assert all(Path(one["path"]).parent.name in ("dev", "test1") for one in named)


def test_the_table_names_the_protocol_and_the_file(xr: Xr, tmp_path: Path) -> None:
    write_cirr(tmp_path / "data")
    report = tmp_path / "elsewhere" / "broken.jsonl"
    status, shown = xr("check", "cirr", "--report", str(report))
    assert status == 1
    assert "7 / 4,181" in shown
    assert "R_subset@1,2,3; reference excluded" in shown
    assert "CIRR test1: queries without text, as in the files: 1" in shown
    assert f"2 missing or unreadable images are listed in {report}" in shown
    assert report.is_file()


def test_a_folder_that_is_whole_is_right(xr: Xr, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "mine"
    for number in range(3):
        draw(folder / f"image {number}.png", number)
    status, shown = xr("check", "folder:mine", "--images")
    assert status == 0
    assert "3 there" in shown
    assert not (tmp_path / "home").exists(), "nothing to list, nothing written"


def test_images_that_are_wholly_absent_are_said_and_not_counted_as_wrong(
    xr: Xr, tmp_path: Path
) -> None:
    write_visdial(tmp_path / "data")
    shutil.rmtree(tmp_path / "data/VisDial/unlabeled2017")
    _, shown = xr("check", "visdial", "--json")
    val = splits_of(shown)["VisDial", "val"]
    assert (val["images"], val["missing"]) == (0, 0)
    assert json.loads(shown)["image_problems_file"] is None


def test_a_circo_without_images_keeps_its_queries(xr: Xr, tmp_path: Path) -> None:
    write_circo(tmp_path / "data")
    shutil.rmtree(tmp_path / "data/CIRCO/COCO2017_unlabeled")
    _, shown = xr("check", "circo", "--json")
    val = splits_of(shown)["CIRCO", "val"]
    assert (val["queries"], val["gallery"], val["images"]) == (6, None, None)
    assert "image_info_unlabeled2017.json" in val["notes"][0]
    with pytest.raises(Exception, match=r"image_info_unlabeled2017\.json"):
        load_dataset("circo", "val", tmp_path / "data")


def test_what_is_malformed_is_named(xr: Xr, tmp_path: Path) -> None:
    write_own_folder(tmp_path / "data")
    queries = tmp_path / "data/my pictures/queries.jsonl"
    queries.write_text('{"query_id": "q"}\n')
    status, shown = xr("check", "folder:my pictures")
    assert status == 1
    assert f"{queries}, line 1" in shown


def test_an_empty_data_root_has_nothing_and_says_where_it_looked(xr: Xr, tmp_path: Path) -> None:
    status, shown = xr("check", "--json")
    assert status == 1
    assert {one["state"] for one in splits_of(shown).values()} == {"absent"}
    assert (
        str(tmp_path / "data" / "CIRCO" / "annotations")
        in splits_of(shown)["CIRCO", "val"]["problems"][0]
    )


@needs_official_files
def test_the_official_files_are_in_order(xr: Xr) -> None:
    status, shown = xr("check", "--data-root", str(DATA), "--json")
    splits = splits_of(shown)
    assert status == 0
    assert {one["state"] for key, one in splits.items() if key[0] != "demo"} == {"ok"}
    assert splits["CIRR", "test1"]["empty_texts"] == 1
    assert splits["VisDial", "val"]["queries"] == 11 * 2_064
    assert splits["FashionIQ-toptee", "val"]["gallery"] == 5_373


@pytest.mark.parametrize("arguments", [["check", "nope"], ["check", "--data-root", "/nowhere"]])
def test_a_wrong_name_or_data_root_is_a_usage_error(xr: Xr, arguments: list[str]) -> None:
    assert xr(*arguments)[0] == 2


def test_the_list_has_every_split_with_its_official_counts(xr: Xr) -> None:
    status, shown = xr("list", "--json")
    counts = {(one["dataset"], one["split"]): one["queries"] for one in json.loads(shown)}
    assert status == 0
    assert counts["CIRR", "test1"] == 4_148
    assert counts["MSCOCO", "test"] == 25_010
    assert len(counts) == 10
    assert "folder:PATH" in xr("list")[1]
