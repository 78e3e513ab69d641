"""Image databases: parts survive a kill, two builders agree, failures are named."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from shared.contracts.skills import Caption, ItemFailure, Vector
from shared.errors import DatasetError, TransientError
from shared.galleries import Gallery
from shared.image_database import database_key, is_finished, open_image_database
from shared.image_database_merging import Merging
from tests.unit.shared.index_scenes import (
    CAPTIONER,
    CLIP,
    a_caption,
    a_vector,
    contents,
    fill,
    make_database,
    make_gallery,
    make_writer,
)

BROKEN = 4


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    """Ten images; number 4 is missing, number 9 is a reference only."""
    return dataclasses.replace(make_gallery(tmp_path, 10, missing=BROKEN), searchable=9)


def test_a_finished_database_reads_back_row_by_row(tmp_path: Path, gallery: Gallery) -> None:
    writer = make_writer(tmp_path, gallery)
    assert fill(writer) == [(0, 1, 2), (3, 5), (6, 7, 8), (9,)]
    assert not is_finished(tmp_path / "image_db", writer.key)
    built = writer.finish()
    database = open_image_database(tmp_path / "image_db", built.key)
    assert database.key == database_key(gallery.key, CAPTIONER, CLIP)
    assert list(database.captions) == [None if r == BROKEN else f"caption {r}" for r in range(10)]
    assert database.captions[9] == "caption 9"
    assert database.captions[2:5] == ["caption 2", "caption 3", None]
    assert isinstance(database.image_embeddings, np.memmap)
    assert database.image_embeddings[7].argmax() == 7
    assert database.caption_embeddings[7].argmax() == 0
    assert not database.image_embeddings[BROKEN].any()
    assert not database.caption_embeddings[BROKEN].any()
    assert (database.searchable, database.gallery_key) == (9, gallery.key)
    failures = [(f.row, f.image_id, f.step, f.reason) for f in database.failures]
    assert failures == [(BROKEN, "img4", "image", "file not found")]
    assert sorted(path.name for path in database.folder.iterdir()) == [
        "caption_embeddings.npy",
        "captions.jsonl",
        "image_embeddings.npy",
        "manifest.json",
    ]


def test_a_killed_build_resumes_with_the_missing_parts_only(
    tmp_path: Path, gallery: Gallery
) -> None:
    killed = make_writer(tmp_path, gallery)
    first, second, *_ = killed.missing_captions()
    killed.add_captions(first, [a_caption(row) for row in first])
    killed.add_image_embeddings(second, [a_vector(row) for row in second])
    del killed
    # Asking for another chunk size does not invalidate what is there.
    resumed = make_writer(tmp_path, gallery, chunk_rows=5)
    assert list(resumed.missing_captions()) == [(3, 5), (6, 7, 8), (9,)]
    assert list(resumed.missing_image_embeddings()) == [(0, 1, 2), (6, 7, 8), (9,)]
    assert [chunk.rows for chunk in resumed.missing_caption_embeddings()] == [(0, 1, 2)]
    assert resumed.progress() == ((1, 4), (1, 4), (0, 4))
    with pytest.raises(TransientError, match="not complete"):
        resumed.finish()
    fill(resumed)
    assert resumed.finish().captions[0] == "caption 0"


def test_failed_rows_are_named_once_by_their_first_cause(tmp_path: Path, gallery: Gallery) -> None:
    def caption(row: int) -> Caption | ItemFailure:
        return {0: Caption("  "), 9: ItemFailure("out of memory")}.get(row, a_caption(row))

    writer = make_writer(tmp_path, gallery)
    for rows in writer.missing_image_embeddings():
        nans = Vector(np.full(8, np.nan, "<f4").tobytes())
        writer.add_image_embeddings(rows, [nans if row == 6 else a_vector(row) for row in rows])
    fill(writer, caption)
    database = writer.finish()
    assert [(failure.row, failure.step) for failure in database.failures] == [
        (0, "caption"),
        (BROKEN, "image"),
        (6, "image_embedding"),
        (9, "caption"),
    ]
    assert database.captions[0] is None
    assert not database.image_embeddings[6].any()
    assert np.isfinite(database.image_embeddings).all()
    assert not database.caption_embeddings[9].any()


def test_of_two_builders_the_first_part_wins_and_embeddings_match_its_captions(
    tmp_path: Path, gallery: Gallery
) -> None:
    one, two = make_writer(tmp_path, gallery), make_writer(tmp_path, gallery)
    rows = next(one.missing_captions())
    kept = one.add_captions(rows, [Caption(f"one {row}") for row in rows])
    late = two.add_captions(rows, [Caption(f"two {row}") for row in rows])
    assert kept == late
    assert late.captions == ("one 0", "one 1", "one 2")
    fill(one)
    fill(two, lambda row: Caption(f"never {row}"))
    first = one.finish()
    second = two.finish()
    assert list(first.captions) == list(second.captions)
    assert first.captions[0] == "one 0"
    # A message that arrives after the end changes nothing.
    two.add_captions(rows, [Caption("late")] * 3)
    assert list(two.missing_captions()) == []
    assert two.progress() == ((4, 4), (4, 4), (4, 4))
    assert open_image_database(tmp_path / "image_db", one.key).captions[0] == "one 0"


def test_a_builder_overtaken_while_merging_opens_the_others_work(
    tmp_path: Path, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = make_writer(tmp_path, gallery), make_writer(tmp_path, gallery)
    fill(one)

    usual_length = Merging._usual_length

    def overtaken(merging: Merging) -> int:
        monkeypatch.setattr(Merging, "_usual_length", usual_length)
        one.finish()
        return usual_length(merging)  # the parts are gone by now

    monkeypatch.setattr(Merging, "_usual_length", overtaken)
    assert two.finish().captions[1] == "caption 1"


def test_a_damaged_part_is_dropped_and_asked_for_again(tmp_path: Path, gallery: Gallery) -> None:
    writer = make_writer(tmp_path, gallery)
    fill(writer)
    parts = tmp_path / "image_db" / writer.key / "parts"
    (parts / "images-00000003.msgpack").write_bytes(b"\x00half")
    with pytest.raises(TransientError, match="damaged"):
        writer.finish()
    assert list(writer.missing_image_embeddings()) == [(3, 5)]
    fill(writer)
    assert len(writer.finish()) == 10


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full(8, np.nan), "8 of its 8 numbers are"),
        (np.zeros(8), "length 0, not 1"),
        (np.full(8, 7.0), "length 19.799, not 1"),
        (np.array([1.0, 0.0]), "has 2 numbers, not 8"),
        (np.array([]), "0 bytes: no vector"),
    ],
)
def test_an_embedding_that_is_none_is_a_failure_of_its_row(
    tmp_path: Path, gallery: Gallery, values: np.ndarray, reason: str
) -> None:
    def image_of(row: int) -> Vector:
        return Vector(values.astype("<f4").tobytes()) if row == 0 else a_vector(row)

    database = make_database(tmp_path, gallery, image_of=image_of)
    first = database.failures[0]
    assert (first.row, first.image_id, first.step) == (0, "img0", "image_embedding")
    assert reason in first.reason
    assert not database.image_embeddings[0].any()
    assert database.caption_embeddings[0].any()
    assert len(database.failures) == 2


def test_bytes_that_are_no_floats_are_a_failure_of_their_row(
    tmp_path: Path, gallery: Gallery
) -> None:
    database = make_database(
        tmp_path, gallery, image_of=lambda row: Vector(b"abc") if row == 7 else a_vector(row)
    )
    assert [failure.row for failure in database.failures] == [BROKEN, 7]


def test_when_no_image_could_be_embedded_all_are_asked_for_again(
    tmp_path: Path, gallery: Gallery
) -> None:
    writer = make_writer(tmp_path, gallery)
    fill(writer, image_of=lambda row: ItemFailure("out of memory"))
    with pytest.raises(DatasetError, match="9 times: out of memory"):
        writer.finish()
    assert len(make_database(tmp_path, gallery)) == 10


def test_a_truncated_part_is_dropped_and_asked_for_again(tmp_path: Path, gallery: Gallery) -> None:
    writer = make_writer(tmp_path, gallery)
    fill(writer)
    part = tmp_path / "image_db" / writer.key / "parts" / "captions-00000006.msgpack"
    part.write_bytes(part.read_bytes()[:-4])
    with pytest.raises(TransientError, match=r"captions-00000006.*damaged.*dropped"):
        writer.finish()
    assert list(writer.missing_captions()) == [(6, 7, 8)]


def test_a_full_disk_is_told_with_the_file_and_leaves_what_was_written(
    tmp_path: Path, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make_writer(tmp_path, gallery)
    fill(writer)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left.*image_embeddings\.npy"):
            writer.finish()
    assert not is_finished(tmp_path / "image_db", writer.key)
    assert not [name for name in contents(tmp_path / "image_db") if name.endswith(".tmp")]
    assert list(writer.missing_captions()) == []
    assert len(writer.finish()) == 10


class _Killed(BaseException):
    """The process ends here."""


def test_killed_at_any_write_the_build_ends_with_the_same_files(
    tmp_path: Path, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def image_of(row: int) -> Vector | ItemFailure:
        return ItemFailure("odd") if row == 6 else a_vector(row)

    expected = contents(make_database(tmp_path / "unharmed", gallery, image_of=image_of).folder)
    really_replace = Path.replace
    moves, dies_at = 0, -1

    def counted(path: Path, target: Path) -> None:
        nonlocal moves
        moves += 1
        if moves == dies_at:
            raise _Killed
        really_replace(path, target)

    def linked(source: Path, target: Path) -> None:
        raise OSError("no hard links here, so that every write is one of these moves")

    monkeypatch.setattr(Path, "replace", counted)
    monkeypatch.setattr(os, "link", linked)
    make_database(tmp_path / "counted", gallery, image_of=image_of)
    writes = moves
    assert writes >= 17  # a plan, three parts of four chunks, four files
    for kill in range(1, writes + 1):
        home = tmp_path / f"killed-{kill}"
        moves, dies_at = 0, kill
        with pytest.raises(_Killed):
            make_database(home, gallery, image_of=image_of)
        database = make_database(home, gallery, image_of=image_of)
        assert contents(database.folder) == expected, f"killed at write {kill} of {writes}"


class _CountedFailures(Mapping[int, str]):
    """A gallery's failures that count how often they are looked at."""

    def __init__(self) -> None:
        self.looks = 0

    def __contains__(self, row: object) -> bool:
        self.looks += 1
        return False

    def __getitem__(self, row: int) -> str:
        raise KeyError(row)

    def __iter__(self) -> Iterator[int]:
        return iter(())

    def __len__(self) -> int:
        return 0


def test_building_looks_at_a_row_equally_often_whatever_the_size(tmp_path: Path) -> None:
    looks = {}
    for size in (30, 300):
        home = tmp_path / str(size)
        gallery = dataclasses.replace(make_gallery(home, size), failures=_CountedFailures())
        make_database(home, gallery)
        assert isinstance(gallery.failures, _CountedFailures)
        looks[size] = gallery.failures.looks
    assert looks[300] <= 10.5 * looks[30]


def test_results_that_do_not_fit_the_rows_are_refused(tmp_path: Path, gallery: Gallery) -> None:
    writer = make_writer(tmp_path, gallery)
    with pytest.raises(ValueError, match="shorter"):
        writer.add_captions((0, 1, 2), [Caption("a")])
    with pytest.raises(ValueError, match="not one of the chunks"):
        writer.add_captions((1, 2, 3), [Caption("a")] * 3)


@pytest.mark.parametrize(
    "changed",
    [
        ("other", CAPTIONER, CLIP),
        ("g", CAPTIONER | {"prompt": "abd"}, CLIP),
        ("g", CAPTIONER | {"temperature": 0}, CLIP),
        ("g", CAPTIONER, {"checkpoint": "vit2"}),
        ("g", CLIP, CAPTIONER),
    ],
)
def test_any_change_of_what_it_is_made_from_is_another_key(
    changed: Sequence[object],
) -> None:
    key = database_key("g", CAPTIONER, CLIP)
    assert key == database_key("g", dict(reversed(CAPTIONER.items())), CLIP)
    assert key != database_key(*changed)  # type: ignore[arg-type]


def test_an_unfinished_or_unknown_database_says_so(tmp_path: Path, gallery: Gallery) -> None:
    writer = make_writer(tmp_path, gallery)
    with pytest.raises(DatasetError, match="still being built"):
        open_image_database(tmp_path / "image_db", writer.key)
    with pytest.raises(DatasetError, match="does not exist"):
        open_image_database(tmp_path / "image_db", "0" * 32)
    with pytest.raises(DatasetError, match="no image database key"):
        open_image_database(tmp_path / "image_db", "../x")
