"""The demo benchmark, users' folders, and errors that say where to look."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared.datasets import known_datasets, load_dataset
from shared.demo_world.benchmark import build, write
from shared.errors import DatasetError


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A data root with a demo folder of two images and one query."""
    folder = tmp_path / "demo"
    images = [{"image_id": name, "file": f"images/{name}.png"} for name in ("00000", "00001")]
    _lines(folder / "gallery.jsonl", images)
    query = {"query_id": "q0000", "reference": "00000", "modification_text": "make it red"}
    answer = {"target_ids": ["00001"], "level": 2, "n_groups": 3, "kinds": ["add", "modify"]}
    _lines(folder / "queries.jsonl", [query | answer | {"edits": [], "core": "a red cup"}])
    return tmp_path


def test_the_demo_is_read_as_written(demo: Path) -> None:
    benchmark = load_dataset("demo", "val", demo)
    assert benchmark.images[1] == ("00001", demo / "demo" / "images" / "00001.png")
    assert benchmark.searchable == 2
    assert benchmark.protocol.exclude_reference
    (query,) = benchmark.queries
    assert (query.reference_id, query.target_ids) == ("00000", ("00001",))
    assert query.tags == {"level": "2", "n_groups": "3", "kinds": "add+modify"}


def test_what_the_demo_world_writes_can_be_read(tmp_path: Path) -> None:
    world = build(seed=3, n_queries=3, n_gallery=20)
    write(world, tmp_path / "demo")
    benchmark = load_dataset("demo", "val", tmp_path)
    assert [image_id for image_id, _ in benchmark.images] == [name for name, _ in world.gallery]
    assert all(path.is_file() for _, path in benchmark.images)
    assert [query.target_ids for query in benchmark.queries] == [
        query.target_ids for query in world.queries
    ]
    assert benchmark.queries[0].reference_id == world.queries[0].reference


def test_a_missing_demo_says_how_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="`xr demo-data` writes it"):
        load_dataset("demo", "val", tmp_path)


def test_an_unknown_data_set_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"unknown data set 'nope'; known: .*demo.*folder:PATH"):
        load_dataset("nope", "val", tmp_path)
    assert "demo" in known_datasets()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_ids": ["77777"]}, r"line 2: query 'q1' names image '77777'"),
        ({"reference": "x"}, r"line 2: query 'q1' names image 'x'"),
        ({"query_id": "q0"}, r"line 2: query 'q0' stands there twice"),
        ({"modification_text": 5}, r"line 2: .*modification_text"),
    ],
)
def test_a_bad_query_is_named_by_line_and_id(
    demo: Path, change: dict[str, Any], message: str
) -> None:
    good = {"query_id": "q0", "reference": "00000", "modification_text": "x"}
    queries = [good, good | {"query_id": "q1"} | change]
    _lines(demo / "demo" / "queries.jsonl", queries)
    with pytest.raises(DatasetError, match=message):
        load_dataset("demo", "val", demo)


def test_a_broken_line_is_named(demo: Path) -> None:
    (demo / "demo" / "queries.jsonl").write_text('{"query_id": "q0", "mod\n')
    with pytest.raises(DatasetError, match=r"queries.jsonl, line 1"):
        load_dataset("demo", "val", demo)


@pytest.mark.parametrize("file", ["/etc/passwd", "../secret.png"])
def test_images_outside_the_demo_folder_are_refused(demo: Path, file: str) -> None:
    _lines(demo / "demo" / "gallery.jsonl", [{"image_id": "a", "file": file}])
    with pytest.raises(DatasetError, match=r"line 1: .* outside the folder"):
        load_dataset("demo", "val", demo)


def test_an_own_folder_is_read_in_sorted_order_with_its_queries(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    for name in ("b.JPG", "sub/a.png", "a.webp", ".hidden.png", ".git/x.png", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    queries = [
        {"query_id": "1", "modification_text": "", "reference_id": "b.JPG",
         "target_ids": ["a.webp"]},
        {"query_id": "2", "modification_text": "two of them", "tags": {"kind": "text"},
         "target_ids": ["a.webp", "sub/a.png"]},
    ]  # fmt: skip
    _lines(folder / "queries.jsonl", queries)
    benchmark = load_dataset("folder:mine", "all", tmp_path)
    assert [image_id for image_id, _ in benchmark.images] == ["a.webp", "b.JPG", "sub/a.png"]
    empty, text_only = benchmark.queries
    assert empty.modification_text == ""
    assert (text_only.reference_id, text_only.tags) == (None, {"kind": "text"})
    assert benchmark.protocol.map_ks == (5, 10, 25, 50)
    assert benchmark.protocol.subset_ks == ()
    assert not benchmark.protocol.exclude_reference


def test_a_folder_without_queries_or_images(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(DatasetError, match=r"no images in .*\.png"):
        load_dataset("folder:mine", "all", tmp_path)
    (tmp_path / "mine" / "a.png").touch()
    assert load_dataset(f"folder:{tmp_path / 'mine'}", "all", Path("/nowhere")).queries == ()
    with pytest.raises(DatasetError, match="not a folder"):
        load_dataset("folder:absent", "all", tmp_path)


def test_a_folders_metadata_is_read_and_a_wrong_line_is_named(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    listed = tmp_path / "metadata.jsonl"
    listed.write_text(
        '{"image_id": "b.png", "fields": {"brand": "acme", "price": 3, "new": true}}\n'
    )
    metadata = load_dataset(f"folder:{tmp_path}", "all", tmp_path).metadata
    assert metadata == {"b.png": {"brand": "acme", "price": 3, "new": True}}
    for line, words in (
        ('{"image_id": "c.png", "fields": {}}', "line 1: there is no image 'c.png'"),
        ('{"image_id": "a.png", "fields": {"x": [1]}}', "line 1"),
        ('{"image_id": "a.png", "fields": {}}\n' * 2, "line 2: image 'a.png' stands there twice"),
    ):
        listed.write_text(line)
        with pytest.raises(DatasetError, match=words):
            load_dataset(f"folder:{tmp_path}", "all", tmp_path)
