"""Changes and versions of a named gallery: nothing lost, nothing half, whoever writes when."""

from __future__ import annotations

import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from shared.contracts.skills import Caption, ItemFailure, Vector
from shared.errors import DatasetError
from shared.galleries import Gallery, open_gallery, write_gallery
from shared.gallery_updates import write_changed_gallery
from shared.gallery_versions import (
    KEPT_VERSIONS,
    GalleryChange,
    GalleryHistory,
    GalleryVersion,
    PutImage,
)
from shared.image_database import ImageDatabase, open_image_database
from shared.image_database_cleanup import find_removable, remove
from shared.image_database_writer import ImageDatabaseWriter
from shared.metadata import matching_rows, read_metadata, write_metadata
from shared.named_galleries import NamedGallery, claim_name
from shared.settings import Settings
from tests.unit.shared.index_scenes import (
    CAPTIONER,
    CLIP,
    a_caption,
    a_vector,
    contents,
    fill,
    make_database,
    make_gallery,
)

IMAGES = 10
BROKEN = 4


class Scene:
    """A named gallery with a finished first version, and what asks its models."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.named = NamedGallery(name="mine", dataset="folder:images", run_id="f~r")
        self.gallery = make_gallery(home, IMAGES, missing=BROKEN)
        self.database = make_database(home, self.gallery)
        self.asked: list[str] = []
        claim_name(home / "named_galleries", self.named)
        run = home / "runs" / "f" / "r"
        run.mkdir(parents=True)
        manifest = {
            "gallery": {"key": self.gallery.key, "images": IMAGES},
            "database": {"key": self.database.key},
        }
        (run / "manifest.json").write_bytes(msgspec.json.encode(manifest))
        self.history = GalleryHistory(home, self.named)

    def put(self, image_id: str, colour: tuple[int, int, int]) -> PutImage:
        """An image of this colour, kept by its content."""
        path = self.home / "new.png"
        Image.new("RGB", (2, 2), colour).save(path)
        return PutImage(image_id, str(self.history.keep_image(path.read_bytes(), ".png")))

    def update(self) -> GalleryVersion:
        """What a run does: fold all changes, build the database, publish."""
        current, last = self.history.current(), self.history.last_change()
        assert current is not None
        if current.number >= last:
            return current
        galleries, former = self.home / "galleries", self.open()
        changed = write_changed_gallery(
            galleries, former, self.history.changes(current.number, last)
        )
        database = self.build(changed.gallery, former.key)
        version = GalleryVersion(
            number=last,
            since=current.number + 1,
            gallery=changed.gallery.key,
            database=database.key,
            images=len(changed.gallery),
        )
        self.history.publish(version)
        return version

    def build(self, gallery: Gallery, predecessor: str) -> ImageDatabase:
        writer = self.writer(gallery, predecessor)

        def caption_of(row: int) -> Caption | ItemFailure:
            self.asked.append(gallery.image_id(row))
            return a_caption(row)

        def image_of(row: int) -> Vector | ItemFailure:
            self.asked.append(gallery.image_id(row))
            return a_vector(row)

        fill(writer, caption_of, image_of)
        return writer.finish()

    def writer(self, gallery: Gallery, predecessor: str) -> ImageDatabaseWriter:
        return ImageDatabaseWriter(
            self.home / "image_db", gallery, CAPTIONER, CLIP, 3, predecessor=predecessor
        )

    def open(self) -> Gallery:
        current = self.history.current()
        assert current is not None
        return open_gallery(self.home / "galleries", current.gallery)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_change_is_a_new_version_and_the_former_one_stays_as_it_was(scene: Scene) -> None:
    first = scene.history.current()
    assert first is not None
    before = contents(scene.database.folder)
    listing = (scene.gallery.folder / "gallery.jsonl").read_bytes()
    change = GalleryChange(
        put=(scene.put("new", (1, 2, 3)), scene.put("img2", (4, 5, 6))), removed=("img0",)
    )
    assert scene.history.record(change) == 2
    assert scene.history.current() == first, "nothing is seen of it yet"
    version = scene.update()
    assert scene.history.current() == version
    expected = [f"img{n}" for n in range(1, IMAGES)] + ["new"]
    assert list(scene.open().image_ids) == expected
    assert [one.number for one in scene.history.versions()] == [2, 1]
    assert contents(scene.database.folder) == before
    assert (scene.gallery.folder / "gallery.jsonl").read_bytes() == listing
    with pytest.raises(DatasetError, match=r"no version 3; the last ones: 2, 1"):
        scene.history.version(3)


def test_only_the_new_images_are_asked_for_and_all_others_are_taken_over(scene: Scene) -> None:
    put = (scene.put("new", (1, 2, 3)), scene.put("img2", (4, 5, 6)))
    scene.history.record(GalleryChange(put=put, removed=("img0",)))
    version = scene.update()
    assert sorted(scene.asked) == ["img2", "img2", "new", "new"], "a caption and an embedding each"
    database = open_image_database(scene.home / "image_db", version.database)
    gallery = scene.open()
    for row, image_id in enumerate(gallery.image_ids):
        if image_id in ("img2", "new"):
            assert database.captions[row] == f"caption {row}"
            continue
        former = scene.gallery.row_of(image_id)
        assert database.captions[row] == scene.database.captions[former]
        assert (database.image_embeddings[row] == scene.database.image_embeddings[former]).all()
        assert (database.caption_embeddings[row] == scene.database.caption_embeddings[former]).all()
    assert [(f.image_id, f.step) for f in database.failures] == [(f"img{BROKEN}", "image")]


def test_what_had_failed_is_not_asked_again_by_an_update(tmp_path: Path) -> None:
    gallery = make_gallery(tmp_path, IMAGES)
    former = make_database(
        tmp_path,
        gallery,
        lambda row: ItemFailure("too slow") if row == 1 else a_caption(row),
        lambda row: ItemFailure("too dark") if row == 7 else a_vector(row),
    )
    images = [(row.image_id, Path(row.path)) for row in gallery.listing][1:]
    shorter = write_gallery(tmp_path / "galleries", images)
    writer = ImageDatabaseWriter(
        tmp_path / "image_db", shorter, CAPTIONER, CLIP, 3, predecessor=gallery.key
    )
    assert not list(writer.missing_captions())
    assert not list(writer.missing_image_embeddings())
    database = writer.finish()
    assert [(f.row, f.image_id, f.step, f.reason) for f in database.failures] == [
        (0, "img1", "caption", "too slow"),
        (6, "img7", "image_embedding", "too dark"),
    ]
    assert (database.image_embeddings == former.image_embeddings[1:]).all()
    # Asking again is a version of its own, as for any database.
    again = ImageDatabaseWriter(
        tmp_path / "image_db", shorter, CAPTIONER, CLIP, 3, retry_failed=True
    )
    assert list(again.missing_captions()) == [(0,)]


def test_rows_are_taken_over_only_from_the_same_models(scene: Scene) -> None:
    images = [(row.image_id, Path(row.path)) for row in scene.gallery.listing][1:]
    shorter = write_gallery(scene.home / "galleries", images)

    def asked(captioner: dict[str, str], clip: dict[str, str]) -> tuple[int, int]:
        writer = ImageDatabaseWriter(
            scene.home / "image_db", shorter, captioner, clip, 64, predecessor=scene.gallery.key
        )
        captions = sum(len(rows) for rows in writer.missing_captions())
        return captions, sum(len(rows) for rows in writer.missing_image_embeddings())

    readable = IMAGES - 2
    assert asked(CAPTIONER, CLIP) == (0, 0)
    assert asked({"checkpoint": "another"}, CLIP) == (readable, 0)
    assert asked(CAPTIONER, {"checkpoint": "another"}) == (readable, readable)


def test_given_captions_are_taken_over_where_they_are_the_same(scene: Scene) -> None:
    given = {"img1": "mine", "img2": "mine, too", "img3": "caption 3"}
    identity = {**CAPTIONER, "given_captions": "abc"}
    writer = ImageDatabaseWriter(
        scene.home / "image_db", scene.gallery, identity, CLIP, 3, given_captions=given
    )

    def caption_of(row: int) -> Caption:
        return Caption(given.get(scene.gallery.image_id(row), f"caption {row}"))

    for rows in writer.missing_captions():
        chunk = writer.add_captions(rows, [caption_of(row) for row in rows])
        writer.add_caption_embeddings(chunk.rows, [a_vector(row) for row in chunk.rows])
    fill(writer)
    writer.finish()
    images = [(row.image_id, Path(row.path)) for row in scene.gallery.listing][1:]
    shorter = write_gallery(scene.home / "galleries", images)
    now_given = {"img1": "mine", "img2": "changed"}  # and img3 has none any more
    following = ImageDatabaseWriter(
        scene.home / "image_db",
        shorter,
        {**CAPTIONER, "given_captions": "def"},
        CLIP,
        64,
        predecessor=scene.gallery.key,
        given_captions=now_given,
    )
    (rows,) = following.missing_captions()
    asked = [shorter.image_id(row) for row in rows]
    assert asked == ["img2", "img3"]


def test_metadata_stays_with_its_image_and_changes_with_the_version(scene: Scene) -> None:
    write_metadata(scene.gallery, {"img0": {"price": 1}, "img5": {"price": 5}})
    scene.history.record(
        GalleryChange(
            put=(scene.put("img5", (9, 9, 9)), scene.put("new", (7, 7, 7))),
            removed=("img0",),
            fields={"new": {"price": 7}, "img6": {"price": 6}},
        )
    )
    scene.update()
    gallery = scene.open()
    known = {"img5": {"price": 5}, "img6": {"price": 6}, "new": {"price": 7}}
    assert read_metadata(gallery) == known
    assert [gallery.image_id(row) for row in matching_rows(gallery, {"price": {"gte": 6}})] == [
        "img6", "new",
    ]  # fmt: skip
    assert read_metadata(scene.gallery) == {"img0": {"price": 1}, "img5": {"price": 5}}


def test_reference_images_stay_behind_the_images_that_are_searched(tmp_path: Path) -> None:
    whole = make_gallery(tmp_path, 4)
    images = [(row.image_id, Path(row.path)) for row in whole.listing]
    gallery = write_gallery(tmp_path / "galleries", images, searchable=3)
    path = tmp_path / "images" / "3.png"
    changed = write_changed_gallery(
        tmp_path / "galleries",
        gallery,
        [GalleryChange(put=(PutImage("new", str(path)),), removed=("img0",))],
    )
    assert list(changed.gallery.image_ids) == ["img1", "img2", "new", "img3"]
    assert changed.gallery.searchable == 3
    with pytest.raises(DatasetError, match="no image would be left"):
        write_changed_gallery(
            tmp_path / "galleries", gallery, [GalleryChange(removed=("img0", "img1", "img2"))]
        )


def test_of_many_writers_at_once_no_change_is_lost(scene: Scene) -> None:
    images = [scene.put(f"new{n}", (n, n, 77)) for n in range(24)]
    with ThreadPoolExecutor(8) as pool:
        numbers = list(
            pool.map(lambda image: scene.history.record(GalleryChange(put=(image,))), images)
        )
    assert sorted(numbers) == list(range(2, 26))
    version = scene.update()
    assert (version.number, version.since) == (25, 2)
    assert set(scene.open().image_ids) >= {f"new{n}" for n in range(24)}


def test_a_builder_that_comes_late_does_not_take_a_version_back(scene: Scene) -> None:
    # Given a builder that folded the first change only, and another that folded both
    scene.history.record(GalleryChange(put=(scene.put("a", (1, 1, 1)),)))
    former = scene.open()
    changes = list(scene.history.changes(1, 2))
    slow = write_changed_gallery(scene.home / "galleries", former, changes).gallery
    scene.history.record(GalleryChange(put=(scene.put("b", (2, 2, 2)),)))
    assert scene.update().number == 3
    # When the first one publishes at last
    database = scene.build(slow, former.key)
    late = GalleryVersion(number=2, since=2, gallery=slow.key, database=database.key)
    scene.history.publish(late)
    # Then both changes stay in what is searched
    assert {"a", "b"} <= set(scene.open().image_ids)
    assert [version.number for version in scene.history.versions()] == [3, 2, 1]


def test_a_change_sent_again_with_the_same_key_is_made_once(scene: Scene) -> None:
    change = GalleryChange(put=(scene.put("a", (1, 1, 1)),), request="key")
    assert [scene.history.record(change) for _ in range(3)] == [2, 2, 2]
    assert scene.history.record(msgspec.structs.replace(change, request="other")) == 3


def test_an_uploaded_image_is_kept_once_and_never_written_over(scene: Scene) -> None:
    first, again = scene.put("a", (1, 1, 1)), scene.put("b", (1, 1, 1))
    other = scene.put("a", (2, 2, 2))
    assert first.path == again.path != other.path
    assert Path(first.path).read_bytes() != Path(other.path).read_bytes()


class _Killed(BaseException):
    """The process ends here."""


def test_killed_at_any_write_an_update_is_whole_or_not_there_and_repeating_finishes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file comes into place by one of these two calls: die before and after each of them."""
    really_replace, really_link = Path.replace, os.link
    moves, dies_at, too_late = 0, -1, False

    def count() -> None:
        nonlocal moves
        moves += 1
        if moves == dies_at:
            raise _Killed

    def replace(path: Path, target: Path) -> None:
        if not too_late:
            count()
        really_replace(path, target)
        if too_late:
            count()

    def link(source: Path, target: Path) -> None:
        if not too_late:
            count()
        really_link(source, target)
        if too_late:
            count()

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(os, "link", link)

    def change_and_update(scene: Scene) -> None:
        """A gateway, then a coordinator. Sent again, the change is the same one."""
        put = (scene.put("new", (1, 2, 3)), scene.put("img2", (4, 5, 6)))
        scene.history.record(GalleryChange(put=put, removed=("img0",), request="key"))
        scene.update()

    def seen(scene: Scene) -> tuple[int, tuple[str, ...], list[str | None], bytes]:
        """What a search of this moment finds; everything it needs is whole."""
        version = scene.history.current()
        assert version is not None
        gallery = scene.open()
        database = open_image_database(scene.home / "image_db", version.database)
        assert len(database) == len(gallery) == version.images
        lengths = np.linalg.norm(database.image_embeddings.astype(np.float32), axis=1)
        failed = {failure.row for failure in database.failures}
        assert all(abs(lengths[row] - 1) < 1e-3 for row in range(len(gallery)) if row not in failed)
        return (
            version.number, gallery.image_ids, list(database.captions),
            database.image_embeddings.tobytes(),
        )  # fmt: skip

    unharmed = Scene(tmp_path / "unharmed")
    before = seen(unharmed)
    moves = 0
    change_and_update(unharmed)
    writes, after = moves, seen(unharmed)
    assert writes >= 12  # two images, a change, a listing, parts, four files, a version
    for late in (False, True):
        for dies_at in range(1, writes + 1):
            too_late = False
            scene = Scene(tmp_path / f"{late}{dies_at}")
            too_late, moves = late, 0
            with pytest.raises(_Killed):
                change_and_update(scene)
            moves = -1_000_000
            assert seen(scene) in (before, after)
            change_and_update(scene)
            assert seen(scene) == after, f"killed at write {dies_at}"


def test_a_full_disk_leaves_the_former_version_whole_and_searched(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.history.record(GalleryChange(put=(scene.put("new", (1, 2, 3)),)))
    first = scene.history.current()
    before = contents(scene.home / "image_db") | contents(scene.home / "galleries")
    really_flush = os.fsync
    left = 0

    def flush(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        really_flush(descriptor)

    monkeypatch.setattr(os, "fsync", flush)
    for allowed in range(0, 40, 3):
        left = allowed
        try:
            scene.update()
        except OSError as error:
            assert error.errno == errno.ENOSPC
            assert error.filename, "it says which file"
            assert scene.history.current() == first
            now = contents(scene.home / "image_db") | contents(scene.home / "galleries")
            assert {name: now.get(name) for name in before if "sqlite" not in name} == {
                name: content for name, content in before.items() if "sqlite" not in name
            }
        else:
            break
    monkeypatch.undo()
    assert scene.update().number == 2
    assert "new" in scene.open().image_ids


def test_two_builders_with_other_predecessors_agree_on_the_one_that_was_first(
    scene: Scene,
) -> None:
    images = [(row.image_id, Path(row.path)) for row in scene.gallery.listing]
    shorter = write_gallery(scene.home / "galleries", images[1:])
    one = scene.writer(shorter, scene.gallery.key)
    two = scene.writer(shorter, "")
    for writer in (one, two):
        assert not list(writer.missing_captions())
        assert not list(writer.missing_image_embeddings())
    assert two.finish().key == one.finish().key


def test_a_predecessor_that_is_cleared_away_meanwhile_is_done_without(scene: Scene) -> None:
    images = [(row.image_id, Path(row.path)) for row in scene.gallery.listing]
    shorter = write_gallery(scene.home / "galleries", images[1:])
    del_me = scene.writer(shorter, scene.gallery.key)
    assert not list(del_me.missing_captions())
    del del_me
    (scene.database.folder / "manifest.json").unlink()
    database = scene.build(shorter, scene.gallery.key)
    assert len(set(scene.asked)) == len(shorter) - 1
    assert [failure.image_id for failure in database.failures] == [f"img{BROKEN}"]


def test_of_images_with_the_same_content_each_keeps_its_own_row(tmp_path: Path) -> None:
    # Given a gallery in which one picture has three names, of which one could not be embedded
    path = make_gallery(tmp_path, 3).image_file(0).path
    images = [("a", path), ("b", tmp_path / "images" / "1.png"), ("c", path), ("d", path)]
    gallery = write_gallery(tmp_path / "galleries", images)
    make_database(
        tmp_path, gallery, image_of=lambda row: ItemFailure("odd") if row == 0 else a_vector(row)
    )
    # When two others go, and one comes under a new name
    fewer = write_gallery(tmp_path / "galleries", [images[0], images[3], ("e", path)])
    writer = ImageDatabaseWriter(
        tmp_path / "image_db", fewer, CAPTIONER, CLIP, 3, predecessor=gallery.key
    )
    database = writer.finish()
    assert list(database.captions) == ["caption 0", "caption 3", "caption 0"]
    assert [failure.image_id for failure in database.failures] == ["a", "e"]


def test_old_versions_are_cleared_away_and_the_last_ones_stay(scene: Scene) -> None:
    settings = Settings(home=scene.home)
    for number in range(KEPT_VERSIONS + 2):
        scene.history.record(GalleryChange(put=(scene.put("new", (number, 1, 1)),)))
        scene.update()
    numbered = {version.number: version for version in scene.history.versions()}
    assert sorted(numbered) == list(range(1, KEPT_VERSIONS + 4))
    assert find_removable(settings, 0.0) == [], "all of it was used within the hour"
    waiting = scene.put("later", (200, 1, 1))
    scene.history.record(GalleryChange(put=(waiting,)))
    two_hours_ago = time.time() - 7200
    for path in scene.home.rglob("*"):
        os.utime(path, (two_hours_ago, two_hours_ago))
    # A version that a run refers to stays whatever its age.
    run = scene.home / "runs" / "gallery-mine" / "run"
    run.mkdir(parents=True)
    manifest = {
        "dataset": "gallery:mine@2",
        "split": "all",
        "gallery": {"key": numbered[2].gallery},
        "database": {"key": numbered[2].database},
    }
    (run / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    (run / "request.json").write_text("{}")
    for _ in range(2):  # an image goes when no gallery lists it any more
        for removal in find_removable(settings, 30 * 24 * 3600.0):
            assert remove(removal)
    left = [
        version.number
        for version in scene.history.versions()
        if (scene.home / "image_db" / version.database / "manifest.json").exists()
    ]
    assert left == [*range(KEPT_VERSIONS + 3, 3, -1), 2]
    for number in left:
        gallery = open_gallery(scene.home / "galleries", numbered[number].gallery)
        assert gallery.image_file(gallery.row_of("new"))
    images = {path.name for path in (scene.history.folder / "images").iterdir()}
    assert Path(waiting.path).name in images, "a change is about to list it"
    assert len(images) == len(left) + 1
