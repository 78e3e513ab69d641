"""Galleries: content keys, failures that keep their row, and never reading a file twice."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import shared.galleries as galleries
from shared.errors import DatasetError, ItemError
from shared.galleries import open_gallery, write_gallery
from shared.image_files import ImageFacts, inspect_image


def _images(folder: Path, count: int) -> list[tuple[str, Path]]:
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for number in range(count):
        path = folder / f"{number}.png"
        Image.new("RGB", (4 + number, 3), (number, 0, 0)).save(path)
        listed.append((f"img{number}", path))
    return listed


def test_a_gallery_reads_back_as_written(tmp_path: Path) -> None:
    images = _images(tmp_path / "images", 3)
    written = write_gallery(tmp_path / "galleries", images, searchable=2)
    gallery = open_gallery(tmp_path / "galleries", written.key)
    assert gallery.image_ids == ("img0", "img1", "img2")
    assert (len(gallery), gallery.searchable, dict(gallery.failures)) == (3, 2, {})
    assert gallery.row_of("img2") == 2
    file = gallery.image_file(1)
    assert file.path == images[1][1]
    assert file.sha256 == inspect_image(str(file.path)).sha256
    assert gallery.listing[1].width == 5


def test_missing_and_broken_images_keep_their_rows_and_are_named(tmp_path: Path) -> None:
    images = _images(tmp_path / "images", 6)
    images[1][1].unlink()
    images[2][1].write_text("no image at all")
    photograph = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(photograph).save(images[3][1], "JPEG")
    images[3][1].write_bytes(images[3][1].read_bytes()[:1500])
    images[4][1].unlink()
    os.mkfifo(images[4][1])
    gallery = write_gallery(tmp_path / "galleries", images)
    assert sorted(gallery.failures) == [1, 2, 3, 4]
    assert gallery.failures[1] == "file not found"
    assert "cannot be decoded" in gallery.failures[2]
    assert "truncated" in gallery.failures[3]
    assert gallery.failures[4] == "not a regular file"
    assert gallery.image_ids[5] == "img5"
    assert gallery.image_file(5).path == images[5][1]
    with pytest.raises(ItemError, match=r"img1 .*file not found"):
        gallery.image_file(1)
    with pytest.raises(ItemError, match="row 6"):
        gallery.image_file(6)
    with pytest.raises(ItemError, match="row -1"):
        gallery.image_file(-1)


def test_an_image_changed_behind_the_gallerys_back_is_not_taken_for_the_listed_one(
    tmp_path: Path,
) -> None:
    images = _images(tmp_path / "images", 3)
    gallery = write_gallery(tmp_path / "galleries", images)
    os.utime(images[0][1])
    Image.new("RGB", (4, 3), (9, 9, 9)).save(images[1][1])
    images[2][1].unlink()
    assert gallery.image_file(0).path == images[0][1], "touched, but the same"
    with pytest.raises(ItemError, match=r"img1 .*has changed since"):
        gallery.image_file(1)
    with pytest.raises(ItemError, match=r"img2 .*file not found"):
        gallery.image_file(2)


def test_the_key_depends_on_content_ids_and_searchable_but_not_on_the_place(tmp_path: Path) -> None:
    folder = tmp_path / "galleries"
    images = _images(tmp_path / "a", 3)
    key = write_gallery(folder, images).key
    moved = write_gallery(folder, _images(tmp_path / "b", 3))
    assert moved.key == key
    assert moved.image_file(0).path == tmp_path / "b" / "0.png"
    assert open_gallery(folder, key).image_file(0).path == tmp_path / "b" / "0.png"
    assert write_gallery(folder, images, searchable=2).key != key
    assert write_gallery(folder, images[::-1]).key != key
    renamed = [("other", images[0][1]), *images[1:]]
    assert write_gallery(folder, renamed).key != key
    Image.new("RGB", (4, 3), (9, 9, 9)).save(images[0][1])
    assert write_gallery(folder, images).key != key


def test_unchanged_files_are_not_read_again_and_changed_ones_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def spy(path: str) -> ImageFacts:
        read.append(Path(path).name)
        return inspect_image(path)

    monkeypatch.setattr(galleries, "inspect_image", spy)
    images = _images(tmp_path / "images", 5)
    first = write_gallery(tmp_path / "galleries", images, threads=1)
    assert len(read) == 5
    assert write_gallery(tmp_path / "galleries", images).key == first.key
    assert len(read) == 5
    # Same size, same modification time: only the content and ctime differ.
    path = images[3][1]
    times = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert write_gallery(tmp_path / "galleries", images).key != first.key
    assert read[5:] == ["3.png"]
    write_gallery(tmp_path / "galleries", images, read_again=True)
    assert sorted(read[6:]) == [f"{number}.png" for number in range(5)]


def test_a_damaged_stat_cache_costs_time_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = _images(tmp_path / "images", 2)
    key = write_gallery(tmp_path / "galleries", images).key
    (tmp_path / "galleries" / "stat_cache.sqlite").write_bytes(b"rubbish" * 1000)
    assert write_gallery(tmp_path / "galleries", images).key == key
    assert "stat cache cannot be used" in caplog.text


def test_writing_a_gallery_again_changes_no_file(tmp_path: Path) -> None:
    images = _images(tmp_path / "images", 3)
    folder = write_gallery(tmp_path / "galleries", images).folder
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}
    assert write_gallery(tmp_path / "galleries", images).folder == folder
    assert {path.name: path.stat().st_ino for path in folder.iterdir()} == before
    assert [path.name for path in (tmp_path / "galleries").glob(".*")] == []


class _Links(Sequence[tuple[str, Path]]):
    """Many images that are one file."""

    def __init__(self, path: Path, count: int) -> None:
        self._path, self._count = path, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> tuple[str, Path]:  # type: ignore[override]
        if row >= self._count:
            raise IndexError(row)
        return f"{row:08d}", self._path


def test_a_gallery_costs_few_bytes_per_image(tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    Image.new("RGB", (2, 2)).save(path)
    peaks = {}
    for count in (100, 8_000, 16_000):  # the first one loads what every gallery needs
        tracemalloc.start()
        try:
            gallery = write_gallery(tmp_path / "galleries", _Links(path, count), threads=1)
            assert gallery.row_of(f"{count - 1:08d}") == count - 1
            _, peaks[count] = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peaks[16_000] - peaks[8_000] < 80 * 8_000, "a dictionary of the ids takes about 130"


def test_progress_ends_with_all(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_gallery(
        tmp_path / "galleries",
        _images(tmp_path / "images", 4),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (4, 4)


@pytest.mark.parametrize(
    ("ids", "searchable", "message"),
    [
        ([], None, "at least one image"),
        (["a", "a"], None, "two images have the id 'a'"),
        (["a", ""], None, "no id"),
        (["a"], 2, "2 of 1 images"),
        (["a"], 0, "0 of 1 images"),
    ],
)
def test_impossible_listings_are_refused(
    tmp_path: Path, ids: Sequence[str], searchable: int | None, message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        write_gallery(tmp_path, [(name, tmp_path / "x.png") for name in ids], searchable)


@pytest.mark.parametrize("key", ["../../etc", "0" * 32, "", "A" * 32])
def test_an_unknown_or_odd_key_is_an_error(tmp_path: Path, key: str) -> None:
    with pytest.raises(DatasetError, match="gallery"):
        open_gallery(tmp_path, key)
