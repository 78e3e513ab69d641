"""Image databases: parts survive a kill, two builders agree, failures are named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.contracts.skills import Caption, ItemFailure, Vector
from shared.errors import DatasetError, TransientError
from shared.galleries import Gallery, write_gallery
from shared.image_database import database_key, is_finished, open_image_database
from shared.image_database_writer import ImageDatabaseWriter

CAPTIONER = {"model": "tiny", "prompt": "abc"}
CLIP = {"checkpoint": "vit"}
BROKEN = 4


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    """Ten images; number 4 is missing."""
    images = []
    for number in range(10):
        path = tmp_path / f"{number}.png"
        if number != BROKEN:
            Image.new("RGB", (2, 2), (number, 0, 0)).save(path)
        images.append((f"img{number}", path))
    return write_gallery(tmp_path / "galleries", images, searchable=9)


def _writer(tmp_path: Path, gallery: Gallery, chunk_rows: int = 3) -> ImageDatabaseWriter:
    return ImageDatabaseWriter(tmp_path / "image_db", gallery, CAPTIONER, CLIP, chunk_rows)


def _vector(number: int) -> Vector:
    values = np.zeros(8, "<f4")
    values[number % 8] = 1.0
    return Vector(values.tobytes())


def _build(
    writer: ImageDatabaseWriter, caption: Callable[[int], Caption | ItemFailure]
) -> list[tuple[int, ...]]:
    captioned = []
    for rows in writer.missing_captions():
        captioned.append(rows)
        writer.add_captions(rows, [caption(row) for row in rows])
    for rows in writer.missing_image_embeddings():
        writer.add_image_embeddings(rows, [_vector(row) for row in rows])
    for chunk in writer.missing_caption_embeddings():
        vectors = [_vector(int(text.split()[-1]) + 1) for text in chunk.captions]
        writer.add_caption_embeddings(chunk.rows, vectors)
    return captioned


def _plain(row: int) -> Caption:
    return Caption(f"caption {row}")


def test_a_finished_database_reads_back_row_by_row(tmp_path: Path, gallery: Gallery) -> None:
    writer = _writer(tmp_path, gallery)
    assert _build(writer, _plain) == [(0, 1, 2), (3, 5), (6, 7, 8), (9,)]
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
    killed = _writer(tmp_path, gallery)
    first, second, *_ = killed.missing_captions()
    killed.add_captions(first, [_plain(row) for row in first])
    killed.add_image_embeddings(second, [_vector(row) for row in second])
    del killed
    # Asking for another chunk size does not invalidate what is there.
    resumed = _writer(tmp_path, gallery, chunk_rows=5)
    assert list(resumed.missing_captions()) == [(3, 5), (6, 7, 8), (9,)]
    assert list(resumed.missing_image_embeddings()) == [(0, 1, 2), (6, 7, 8), (9,)]
    assert [chunk.rows for chunk in resumed.missing_caption_embeddings()] == [(0, 1, 2)]
    assert resumed.progress() == (1, 1, 0, 4)
    with pytest.raises(TransientError, match="not complete"):
        resumed.finish()
    _build(resumed, _plain)
    assert resumed.finish().captions[0] == "caption 0"


def test_failed_rows_are_named_once_by_their_first_cause(tmp_path: Path, gallery: Gallery) -> None:
    def caption(row: int) -> Caption | ItemFailure:
        return {0: Caption("  "), 9: ItemFailure("out of memory")}.get(row, _plain(row))

    writer = _writer(tmp_path, gallery)
    for rows in writer.missing_image_embeddings():
        nans = Vector(np.full(8, np.nan, "<f4").tobytes())
        writer.add_image_embeddings(rows, [nans if row == 6 else _vector(row) for row in rows])
    _build(writer, caption)
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
    one, two = _writer(tmp_path, gallery), _writer(tmp_path, gallery)
    rows = next(one.missing_captions())
    kept = one.add_captions(rows, [Caption(f"one {row}") for row in rows])
    late = two.add_captions(rows, [Caption(f"two {row}") for row in rows])
    assert kept == late
    assert late.captions == ("one 0", "one 1", "one 2")
    _build(one, _plain)
    _build(two, lambda row: Caption(f"never {row}"))
    first = one.finish()
    second = two.finish()
    assert list(first.captions) == list(second.captions)
    assert first.captions[0] == "one 0"
    # A message that arrives after the end changes nothing.
    two.add_captions(rows, [Caption("late")] * 3)
    assert list(two.missing_captions()) == []
    assert two.progress() == (4, 4, 4, 4)
    assert open_image_database(tmp_path / "image_db", one.key).captions[0] == "one 0"


def test_a_builder_overtaken_while_merging_opens_the_others_work(
    tmp_path: Path, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = _writer(tmp_path, gallery), _writer(tmp_path, gallery)
    _build(one, _plain)

    def overtaken() -> int:
        one.finish()
        return ImageDatabaseWriter._dimensions(two)  # the parts are gone by now

    monkeypatch.setattr(two, "_dimensions", overtaken)
    assert two.finish().captions[1] == "caption 1"


def test_a_damaged_part_is_dropped_and_asked_for_again(tmp_path: Path, gallery: Gallery) -> None:
    writer = _writer(tmp_path, gallery)
    _build(writer, _plain)
    parts = tmp_path / "image_db" / writer.key / "parts"
    (parts / "images-00000003.msgpack").write_bytes(b"\x00half")
    with pytest.raises(TransientError, match="damaged"):
        writer.finish()
    assert list(writer.missing_image_embeddings()) == [(3, 5)]
    _build(writer, _plain)
    assert len(writer.finish()) == 10


def test_embeddings_of_two_lengths_are_refused(tmp_path: Path, gallery: Gallery) -> None:
    writer = _writer(tmp_path, gallery)
    rows = next(writer.missing_image_embeddings())
    short = Vector(np.array([1.0, 0.0], "<f4").tobytes())
    writer.add_image_embeddings(rows, [short] * len(rows))
    _build(writer, _plain)
    with pytest.raises(DatasetError, match="embeddings of 8 and of 2"):
        writer.finish()


def test_results_that_do_not_fit_the_rows_are_refused(tmp_path: Path, gallery: Gallery) -> None:
    writer = _writer(tmp_path, gallery)
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
    writer = _writer(tmp_path, gallery)
    with pytest.raises(DatasetError, match="still being built"):
        open_image_database(tmp_path / "image_db", writer.key)
    with pytest.raises(DatasetError, match="does not exist"):
        open_image_database(tmp_path / "image_db", "0" * 32)
    with pytest.raises(DatasetError, match="no image database key"):
        open_image_database(tmp_path / "image_db", "../x")
