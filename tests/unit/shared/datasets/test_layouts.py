"""Miniatures of every data set: what the loaders make of them, and the layouts they accept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from shared.datasets import load_dataset
from shared.datasets.images import Images
from shared.errors import DatasetError
from tests.miniatures import (
    WRITERS,
    write_circo,
    write_cirr,
    write_fashioniq,
    write_flickr30k,
    write_mscoco,
    write_own_folder,
    write_visdial,
)


@pytest.mark.parametrize("name", WRITERS)
def test_a_miniature_is_read_as_it_was_written(name: str, tmp_path: Path) -> None:
    miniature = WRITERS[name](tmp_path)
    for split, queries in miniature.queries.items():
        found = load_dataset(miniature.dataset, split, tmp_path)
        assert (len(found.queries), found.searchable) == (queries, miniature.gallery[split])
        absent = [image_id for image_id, path in found.images if not path.is_file()]
        assert absent == [miniature.missing[split]], "every other path leads to its file"


@pytest.mark.parametrize("name", ["CIRCO", "circo", "Circo"])
def test_the_case_of_a_name_does_not_matter(name: str, tmp_path: Path) -> None:
    write_circo(tmp_path)
    assert load_dataset(name, "val", tmp_path).name == "CIRCO"
    (tmp_path / "CIRCO").rename(tmp_path / "circo")
    assert len(load_dataset(name, "val", tmp_path).queries) == 6


def test_circo_images_lie_in_either_place_and_annotations_in_either_folder(tmp_path: Path) -> None:
    for texts in ("annotations", "captions"):
        for images in ("nested", "plain"):
            root = tmp_path / texts / images
            write_circo(root, annotations=texts, images=images)
            found = load_dataset("circo", "test", root)
            assert found.images[0][1].is_file()
            assert not any("list" in deviation for deviation in found.protocol.deviations)


def test_circo_without_its_list_searches_the_folder_and_says_so(tmp_path: Path) -> None:
    write_circo(tmp_path, with_list=False)
    found = load_dataset("circo", "val", tmp_path)
    assert (len(found.images), found.images[0][0]) == (19, "8")
    assert "image_info_unlabeled2017.json is missing" in found.protocol.deviations[0]


def test_circo_with_its_list_never_lists_the_folder(tmp_path: Path) -> None:
    write_circo(tmp_path)
    stray = tmp_path / "CIRCO/COCO2017_unlabeled/unlabeled2017/000000999999.jpg"
    stray.write_bytes(b"")
    ids = {image_id for image_id, _ in load_dataset("circo", "val", tmp_path).images}
    assert "999999" not in ids


def test_cirr_annotations_may_lie_one_folder_deeper(tmp_path: Path) -> None:
    write_cirr(tmp_path, nested=True)
    found = load_dataset("CIRR", "val", tmp_path)
    assert found.images[0] == ("dev-0-0-img0", tmp_path / "CIRR/dev/dev-0-0-img0.png")
    assert found.images[0][1].is_file()


def test_fashioniq_finds_either_suffix_and_joins_what_is_not_empty(tmp_path: Path) -> None:
    write_fashioniq(tmp_path, "shirt")
    found = load_dataset("fashioniq-shirt", "val", tmp_path)
    assert [path.suffix for _, path in found.images[:3]] == [".jpg", ".png", ".png"]
    assert found.queries[3].modification_text == "has shorter sleeves"
    assert found.queries[1].modification_text == (
        "is shows two of them instead of one and has shorter sleeves"
    )


def test_captions_come_from_csv_or_json_with_the_same_queries(tmp_path: Path) -> None:
    for write, name in ((write_flickr30k, "Flickr30K"), (write_mscoco, "MSCOCO")):
        write(tmp_path)
        (table,) = (tmp_path / name).glob("*.csv")
        from_csv = load_dataset(name, "test", tmp_path)
        by_image: dict[str, list[str]] = {}
        for query in from_csv.queries:
            by_image.setdefault(query.target_ids[0], []).append(query.modification_text)
        key = "captions" if name == "Flickr30K" else "caption"
        folder = "" if name == "Flickr30K" else "val2014/"
        rows = [{"image": folder + image, key: texts} for image, texts in by_image.items()]
        derived = "flickr30k_test1k" if name == "Flickr30K" else "coco_karpathy_test5k"
        table.unlink()
        (tmp_path / name / f"{derived}.json").write_text(json.dumps(rows))
        from_json = load_dataset(name, "test", tmp_path)
        assert from_json.queries == from_csv.queries
        assert list(from_json.images) == list(from_csv.images)
    assert "not-of-this-split.jpg" not in {image_id for image_id, _ in from_csv.images}


def test_visdial_images_may_lie_where_circo_keeps_them(tmp_path: Path) -> None:
    write_visdial(tmp_path)
    shared_place = tmp_path / "COCO2017_unlabeled"
    shutil.move(tmp_path / "VisDial/unlabeled2017", shared_place / "unlabeled2017")
    found = load_dataset("visdial", "val", tmp_path)
    image_id, path = found.images[0]
    assert image_id == "unlabeled2017/000000581000.jpg"
    assert path == shared_place / image_id
    assert [query.round for query in found.queries[:12]] == [*range(11), 0]
    assert found.queries[12].previous_id == "1/r0"


def test_an_own_folder_with_everything(tmp_path: Path) -> None:
    write_own_folder(tmp_path)
    found = load_dataset("folder:my pictures", "all", tmp_path)
    by_id = {query.query_id: query for query in found.queries}
    assert found.searchable == len(found.images) - 1
    assert found.images[-1][0] == "references/only this.png", "a reference outside the gallery list"
    assert found.captions["holiday/Straße.png"].startswith("A green")
    assert by_id["talk 1"].previous_id == "talk 0"
    assert by_id["two targets"].aspects == ("comparative",)
    assert (found.protocol.map_ks, found.protocol.subset_ks) == ((5, 10, 25, 50), (1, 2, 3))
    assert found.protocol.hits_ks == (1, 5, 10)


def test_a_gallery_list_may_give_ids_of_its_own(tmp_path: Path) -> None:
    lines = ['{"file": "x/1.png", "image_id": "one"}', "", '{"file": "2.png"}']
    (tmp_path / "gallery.jsonl").write_text("\n".join(lines))
    found = load_dataset(f"folder:{tmp_path}", "all", tmp_path)
    assert list(found.images) == [("one", tmp_path / "x/1.png"), ("2.png", tmp_path / "2.png")]


@pytest.mark.parametrize(
    ("name", "split", "words"),
    [
        ("circo", "val", ["annotations/val.json", "captions/val.json"]),
        ("cirr", "test1", ["captions/cap.rc2.test1.json", "cirr/captions/cap.rc2.test1.json"]),
        ("fashioniq-dress", "val", ["FashionIQ/captions/cap.dress.val.json"]),
        ("flickr30k", "test", ["test_1k_flickr.csv", "flickr30k_test1k.json"]),
        ("visdial", "val", ["VisDial_v1.0_queries_val.json", "dialogues"]),
    ],
)
def test_what_is_missing_is_named_with_the_places_looked_in(
    name: str, split: str, words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(DatasetError) as raised:
        load_dataset(name, split, tmp_path)
    told = str(raised.value)
    assert str(tmp_path) in told
    for word in words:
        assert word in told


def test_missing_circo_images_and_list_are_named(tmp_path: Path) -> None:
    write_circo(tmp_path)
    shutil.rmtree(tmp_path / "CIRCO/COCO2017_unlabeled")
    with pytest.raises(DatasetError, match=r"image_info_unlabeled2017\.json.*unlabeled2017"):
        load_dataset("circo", "val", tmp_path)


def test_images_are_a_sequence_of_ids_and_paths(tmp_path: Path) -> None:
    images = Images(tmp_path, ["a", "b", "c"], ["a.png", "sub/b.png", "c.png"])
    assert list(images) == [images[0], images[1], images[2]]
    assert images[1] == ("b", tmp_path / "sub/b.png")
    assert list(images[1:]) == list(images)[1:]
    assert [location for _, location in images.locations()] == [str(path) for _, path in images]
    assert images.and_also(["d.png"])[-1] == ("d.png", tmp_path / "d.png")
    with pytest.raises(ValueError, match="1 ids for 0 files"):
        Images(tmp_path, ["a"], [])


def test_the_whole_of_circos_gallery_is_listed_quickly_and_lightly(tmp_path: Path) -> None:
    # Given an image list as long as the official one
    write_circo(tmp_path)
    path = tmp_path / "CIRCO/COCO2017_unlabeled/annotations/image_info_unlabeled2017.json"
    document = json.loads(path.read_text())
    document["images"] += [
        {"id": 1_000_000 + n, "file_name": f"{1_000_000 + n:012d}.jpg"} for n in range(123_383)
    ]
    path.write_text(json.dumps(document))

    # When it is read, then it takes no list of path objects
    import tracemalloc

    tracemalloc.start()
    found = load_dataset("circo", "val", tmp_path)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found.images) == 123_403
    assert kept < 30e6, f"{kept / 1e6:.0f} MB for the names of 123,403 images"
    assert not any("gallery" in deviation for deviation in found.protocol.deviations)
