"""Asking again for what failed makes a new version; the former one never changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.contracts.skills import Caption, ItemFailure, Vector
from shared.galleries import Gallery
from shared.image_database import ImageDatabase, latest_version, open_image_database
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
    return make_gallery(tmp_path, 10, missing=BROKEN)


def caption_but_1_and_7(row: int) -> Caption | ItemFailure:
    return ItemFailure("too slow") if row in (1, 7) else a_caption(row)


def image_but_7_and_8(row: int) -> Vector | ItemFailure:
    return ItemFailure("too dark") if row in (7, 8) else a_vector(row)


@pytest.fixture
def first(tmp_path: Path, gallery: Gallery) -> ImageDatabase:
    """Rows 1, 7 and 8 lack something though their images are readable."""
    return make_database(tmp_path, gallery, caption_but_1_and_7, image_but_7_and_8)


def test_only_failed_rows_are_asked_for_again(
    tmp_path: Path, gallery: Gallery, first: ImageDatabase
) -> None:
    before = contents(first.folder)
    writer = make_writer(tmp_path, gallery, retry_failed=True)
    assert list(writer.missing_captions()) == [(1,), (7,)]
    assert list(writer.missing_image_embeddings()) == [(7, 8)]
    fill(writer)
    second = writer.finish()

    unharmed = make_database(tmp_path / "unharmed", gallery)
    assert second.key != first.key
    assert list(second.captions) == list(unharmed.captions)
    assert (second.image_embeddings == unharmed.image_embeddings).all()
    assert (second.caption_embeddings == unharmed.caption_embeddings).all()
    assert [failure.row for failure in second.failures] == [BROKEN]
    # Who has the former version open, or its key, reads what was there before.
    assert contents(first.folder) == before
    assert first.captions[7] is None


def test_the_next_build_finds_the_latest_version_and_asks_for_nothing(
    tmp_path: Path, gallery: Gallery, first: ImageDatabase
) -> None:
    second = make_database(tmp_path, gallery, retry_failed=True)
    writer = make_writer(tmp_path, gallery)
    assert writer.key == second.key
    assert fill(writer) == []
    assert latest_version(tmp_path / "image_db", gallery.key, CAPTIONER, CLIP) == 1
    # With nothing left to retry, asking again is no new version.
    assert make_writer(tmp_path, gallery, retry_failed=True).key == second.key


def test_what_fails_again_stays_named_and_a_retry_in_vain_leaves_nothing_behind(
    tmp_path: Path, gallery: Gallery, first: ImageDatabase
) -> None:
    again = make_database(
        tmp_path, gallery, caption_but_1_and_7, image_but_7_and_8, retry_failed=True
    )
    assert again.key == first.key
    assert [path.name for path in (tmp_path / "image_db").iterdir()] == [first.key]

    partly = make_database(tmp_path, gallery, a_caption, image_but_7_and_8, retry_failed=True)
    assert partly.key != first.key
    failures = [(failure.row, failure.step) for failure in partly.failures]
    assert failures == [(BROKEN, "image"), (7, "image_embedding"), (8, "image_embedding")]
    assert partly.captions[7] == "caption 7"


def test_a_killed_retry_goes_on_and_readers_see_the_former_version_meanwhile(
    tmp_path: Path, gallery: Gallery, first: ImageDatabase
) -> None:
    killed = make_writer(tmp_path, gallery, retry_failed=True)
    killed.add_captions((1,), [a_caption(1)])
    del killed
    assert make_writer(tmp_path, gallery).finish().key == first.key

    resumed = make_writer(tmp_path, gallery, retry_failed=True)
    assert list(resumed.missing_captions()) == [(7,)]
    fill(resumed)
    second = resumed.finish()
    assert second.captions[1] == "caption 1"
    assert open_image_database(tmp_path / "image_db", first.key).captions[1] is None


def test_a_caption_without_embedding_is_captioned_again(tmp_path: Path, gallery: Gallery) -> None:
    writer = make_writer(tmp_path, gallery)
    for rows in writer.missing_captions():
        chunk = writer.add_captions(rows, [a_caption(row) for row in rows])
        results = [ItemFailure("odd") if row == 5 else a_vector(row + 1) for row in chunk.rows]
        writer.add_caption_embeddings(chunk.rows, results)
    fill(writer)
    assert [(f.row, f.step) for f in writer.finish().failures] == [
        (BROKEN, "image"),
        (5, "caption_embedding"),
    ]
    healed = make_database(
        tmp_path, gallery, lambda row: Caption(f"better {row}"), retry_failed=True
    )
    assert healed.captions[5] == "better 5"
    assert healed.caption_embeddings[5].any()
    assert len(healed.failures) == 1
