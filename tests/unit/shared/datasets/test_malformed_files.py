"""Bad input: the error names the file, the line or entry, and what is wrong there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.datasets import load_dataset
from shared.datasets.caption_lists import MAX_LITERAL, parse_captions
from shared.errors import DatasetError
from tests.miniatures import (
    write_circo,
    write_cirr,
    write_fashioniq,
    write_flickr30k,
    write_own_folder,
    write_visdial,
)

Change = Callable[[Any], None]


def refusal(name: str, split: str, root: Path) -> str:
    with pytest.raises(DatasetError) as raised:
        load_dataset(name, split, root)
    return str(raised.value)


def change_json(path: Path, change: Change) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "split", "known"),
    [
        ("circo", "test1", "val, test"),
        ("cirr", "test", "val, test1"),
        ("fashioniq-dress", "train", "val"),
        ("mscoco", "val", "test"),
        ("visdial", "", "val"),
    ],
)
def test_a_wrong_split_is_told_the_right_ones(
    name: str, split: str, known: str, tmp_path: Path
) -> None:
    assert refusal(name, split, tmp_path).endswith(f"has no split {split!r}; known: {known}")


def _second_id(entries: list[dict[str, Any]]) -> None:
    entries[3]["id"] = entries[1]["id"]


def _unknown_target(entries: list[dict[str, Any]]) -> None:
    entries[2]["gt_img_ids"].append(424_242)


def _unknown_reference(entries: list[dict[str, Any]]) -> None:
    entries[4]["reference_img_id"] = 424_242


def _number_as_caption(entries: list[dict[str, Any]]) -> None:
    entries[5]["relative_caption"] = 7


def _other_target(entries: list[dict[str, Any]]) -> None:
    entries[1]["target_img_id"] = 8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_second_id, ["entry 3 (id 1)", "twice", "entry 1"]),
        (_unknown_target, ["entry 2 (id 2)", "'424242' (target)", "not in the gallery"]),
        (_unknown_reference, ["entry 4 (id 4)", "'424242' (reference)"]),
        (_number_as_caption, ["$[5].relative_caption", "Expected `str`, got `int`"]),
        (_other_target, ["entry 1 (id 1)", "target_img_id 8 is not among gt_img_ids"]),
    ],
)
def test_a_bad_entry_of_circo_is_named(change: Change, words: list[str], tmp_path: Path) -> None:
    write_circo(tmp_path)
    path = tmp_path / "CIRCO/annotations/val.json"
    change_json(path, change)
    told = refusal("circo", "val", tmp_path)
    for word in (str(path), *words):
        assert word in told


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'[{"id": 1,\n "x": }]', ["line 2", "malformed"]),
        (b'[{"id": 1,\n\n "x": "y"', ["line 3", "truncated"]),
        (b'[\n{"relative_caption": "caf\xe9"}]', ["line 2", "not UTF-8", "0xe9"]),
        (b'{"a": 1}', ["Expected `array`, got `object`"]),
        (
            b'[\n{"id": "1"},\n\n {"id": "1"}]',
            ["line 2", "Expected `int`, got `str` - at `$[0].id`"],
        ),
        (b"[\n5,\n\n5]", ["line 2", "at `$[0]`"]),
        (b'[{"id": "1"},\n x]', ["val.json: Expected `int`, got `str`"]),
        (b"", ["truncated"]),
    ],
)
def test_a_file_that_is_no_such_json_is_named_with_the_line(
    content: bytes, words: list[str], tmp_path: Path
) -> None:
    write_circo(tmp_path)
    path = tmp_path / "CIRCO/annotations/val.json"
    path.write_bytes(content)
    told = refusal("circo", "val", tmp_path)
    for word in (str(path), *words):
        assert word in told


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    write_circo(tmp_path)
    path = tmp_path / "CIRCO/annotations/val.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(load_dataset("circo", "val", tmp_path).queries) == 6


def test_an_image_listed_twice_is_named(tmp_path: Path) -> None:
    write_fashioniq(tmp_path)
    path = tmp_path / "FashionIQ/image_splits/split.dress.val.json"
    change_json(path, lambda ids: ids.append(ids[4]))
    assert f"{path}, entry 15: image 'B00DRESS04' stands there twice" in refusal(
        "fashioniq-dress", "val", tmp_path
    )


def test_captions_that_are_no_list_are_named(tmp_path: Path) -> None:
    write_fashioniq(tmp_path)
    path = tmp_path / "FashionIQ/captions/cap.dress.val.json"
    change_json(path, lambda entries: entries[2].update(captions="is red"))
    told = refusal("fashioniq-dress", "val", tmp_path)
    assert f"{path}, line 18: Expected `array`, got `str` - at `$[2].captions`" in told


def test_a_cirr_set_without_its_reference_is_named(tmp_path: Path) -> None:
    write_cirr(tmp_path)
    path = tmp_path / "CIRR/captions/cap.rc2.val.json"
    change_json(path, lambda entries: entries[1].update(reference="dev-130-1-img1"))
    assert "entry 1 (pairid 101): img_set.members must hold the reference" in refusal(
        "cirr", "val", tmp_path
    )


@pytest.mark.parametrize("file", ["/etc/passwd", "./../../secret.png", ""])
def test_a_path_that_leads_outside_is_refused(file: str, tmp_path: Path) -> None:
    write_cirr(tmp_path)
    path = tmp_path / "CIRR/image_splits/split.rc2.val.json"
    change_json(path, lambda names: names.update({"dev-0-0-img0": file}))
    assert "image 'dev-0-0-img0'" in refusal("cirr", "val", tmp_path)


def test_a_dialogue_about_an_unknown_image_is_named(tmp_path: Path) -> None:
    write_visdial(tmp_path)
    path = tmp_path / "VisDial/VisDial_v1.0_queries_val.json"
    change_json(path, lambda dialogues: dialogues[1].update(img="unlabeled2017/1.jpg"))
    told = refusal("visdial", "val", tmp_path)
    assert "dialogue 1, round 0" in told
    assert "'unlabeled2017/1.jpg' (target)" in told


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("<html>\n<body>Not found</body>", ["line 1", "no column filename", "<html>"]),
        ("filename,split\na.jpg,test\n", ["line 1", "no column raw", "filename, split"]),
        ("", ["line 1", "holds nothing"]),
        ("filename,raw\na.jpg,\"['x']\"\nb.jpg\n", ["line 3", "fewer cells"]),
        ("filename,raw\na.jpg,\"['x']\",1\n", ["line 2", "more cells"]),
        ("filename,raw\na.jpg,\"['x']\"b\n", ["line 2", "not csv"]),
        ("filename,raw\na.jpg,\"['x']\"\nb.jpg,a dog\n", ["line 3", "column raw", "'a dog'"]),
        ("filename,raw\na.jpg,[]\n", ["line 2", "no captions"]),
        ("filename,raw,split\na.jpg,['x'],train\n", ["no images of the split 'test'"]),
    ],
)
def test_a_table_that_is_none_is_named_with_the_line(
    table: str, words: list[str], tmp_path: Path
) -> None:
    write_flickr30k(tmp_path)
    path = tmp_path / "Flickr30K/test_1k_flickr.csv"
    path.write_text(table, encoding="utf-8")
    told = refusal("flickr30k", "test", tmp_path)
    for word in (str(path), *words):
        assert word in told


def test_a_table_in_another_encoding_is_named_with_the_line(tmp_path: Path) -> None:
    write_flickr30k(tmp_path)
    path = tmp_path / "Flickr30K/test_1k_flickr.csv"
    path.write_bytes("filename,raw\na.jpg,['x']\nb.jpg,['café']\n".encode("latin-1"))
    assert f"{path}, line 3: not UTF-8" in refusal("flickr30k", "test", tmp_path)


@pytest.mark.parametrize(
    "cell",
    [
        "__import__('os').system('touch {marker}')",
        "[open('{marker}', 'w').write('x')]",
        "['x' for _ in range(9)]",
        "[f'{{1}}']",
        "('a', 'b')",
        "{{'a': 1}}",
        "[1, 2]",
        "['a', ['b']]",
        "[b'a']",
        "not a list",
        "[" * 3_000,
        "-" * 5_000 + "1",
        "['" + "a" * MAX_LITERAL + "']",
    ],
)
def test_code_in_a_column_is_never_run_and_named_with_its_line(cell: str, tmp_path: Path) -> None:
    # Given a list of captions with something else in its third row
    marker = tmp_path / "it was run"
    write_flickr30k(tmp_path)
    path = tmp_path / "Flickr30K/test_1k_flickr.csv"
    cell = cell.format(marker=marker) if len(cell) < 200 else cell
    quoted = cell.replace('"', '""')
    path.write_text(f"filename,raw\na.jpg,['x']\nb.jpg,\"{quoted}\"\n")

    # When it is read, then it is refused by line, and nothing has happened
    told = refusal("flickr30k", "test", tmp_path)
    assert f"{path}, line 3: column raw holds" in told
    assert len(told) < 400
    assert not marker.exists()


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=40), max_size=6))
def test_whatever_list_of_texts_was_written_is_read_again(texts: list[str]) -> None:
    assert parse_captions(str(texts), "here") == texts


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from("[]{}()'\"\\,:abf1-+*. \n"), max_size=60))
def test_any_other_cell_is_refused_and_nothing_worse(text: str) -> None:
    try:
        found = parse_captions(text, "here")
    except DatasetError as error:
        assert str(error).startswith("here: column raw holds")
    except (SyntaxWarning, DeprecationWarning):
        pass
    else:
        assert all(isinstance(caption, str) for caption in found)


FILES = [
    (write_circo, "circo", "val", "CIRCO/annotations/val.json"),
    (write_circo, "circo", "val",
     "CIRCO/COCO2017_unlabeled/annotations/image_info_unlabeled2017.json"),
    (write_cirr, "cirr", "val", "CIRR/image_splits/split.rc2.val.json"),
    (write_fashioniq, "fashioniq-dress", "val", "FashionIQ/captions/cap.dress.val.json"),
    (write_flickr30k, "flickr30k", "test", "Flickr30K/test_1k_flickr.csv"),
    (write_visdial, "visdial", "val", "VisDial/VisDial_v1.0_queries_val.json"),
    (write_own_folder, "folder:my pictures", "all", "my pictures/queries.jsonl"),
    (write_own_folder, "folder:my pictures", "all", "my pictures/gallery.txt"),
]  # fmt: skip


@pytest.mark.parametrize(("write", "name", "split", "file"), FILES)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_and_nothing_else(
    write: Callable[[Path], object], name: str, split: str, file: str, tmp_path: Path, data: Any
) -> None:
    # Given a good file with a few bytes cut out and others put in their place
    write(tmp_path)
    path = tmp_path / file
    content = path.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(start + 40, len(content))))
    put_in = data.draw(st.binary(max_size=8) | st.sampled_from([b'"', b"\n", b"[", b"9" * 30]))
    path.write_bytes(content[:start] + put_in + content[end:])

    # When it is read, then whatever is raised names the file or what is missing in it
    try:
        load_dataset(name, split, tmp_path)
    except DatasetError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("file", "line", "words"),
    [
        ("queries.jsonl", '{"query_id": "q", "modification_text": "\xe9"}', ["not UTF-8"]),
        ("queries.jsonl", '{"query_id": "one target", "modification_text": "x"}', ["twice"]),
        ("queries.jsonl", '{"query_id": "q", "modification_text": "x", "round": 1}',
         ["needs both dialogue_id and round"]),
        ("queries.jsonl",
         '{"query_id": "q", "modification_text": "x", "dialogue_id": "d", "round": 1}',
         ["without round 0"]),
        ("queries.jsonl",
         '{"query_id": "q", "modification_text": "x", "dialogue_id": "talk", "round": 1}',
         ["stands there twice"]),
        ("queries.jsonl",
         '{"query_id": "q", "modification_text": "x", "target_ids": ["references/only this.png"]}',
         ["not in the gallery list"]),
        ("queries.jsonl",
         '{"query_id": "q", "modification_text": "x", "reference": "/etc/passwd"}', ["outside"]),
        ("queries.jsonl", '{"query_id": "q", "modification_text": "x", "z": ' + 9_000 * "[",
         ["recursion"]),
        ("captions.jsonl", '{"image_id": "nothing.png", "caption": "x"}', ["no image"]),
        ("captions.jsonl", '{"image_id": "holiday/Straße.png", "caption": "x"}', ["second"]),
        ("captions.jsonl", '{"image_id": "d.png", "caption": " "}', ["empty"]),
        ("captions.jsonl", '{"image_id": "d.png", "caption": ["x"]}', ["Expected `str`"]),
        ("gallery.txt", "../elsewhere.png", ["outside"]),
        ("gallery.txt", "a.webp", ["twice"]),
    ],
)  # fmt: skip
def test_a_bad_line_of_an_own_folder_is_named(
    file: str, line: str, words: list[str], tmp_path: Path
) -> None:
    write_own_folder(tmp_path)
    path = tmp_path / "my pictures" / file
    encoding = "latin-1" if "UTF-8" in words[0] else "utf-8"
    content = path.read_bytes()
    path.write_bytes(content + line.encode(encoding) + b"\n")
    told = refusal("folder:my pictures", "all", tmp_path)
    for word in words:
        assert word in told
    assert f"{path}, line {content.count(bytes([10])) + 1}" in told
