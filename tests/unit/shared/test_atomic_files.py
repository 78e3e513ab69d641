"""Files written atomically: all or nothing, and no rubbish left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared import atomic_files


def test_a_block_that_raises_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    atomic_files.write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), atomic_files.replacing(path) as temporary:
        temporary.write_text("half of it")
        raise RuntimeError
    assert path.read_text() == '{\n  "old": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_values_json_does_not_have_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        atomic_files.write_jsonl(tmp_path / "a.jsonl", [{"x": 1.0}, {"x": float("nan")}])
    assert list(tmp_path.iterdir()) == []


def test_lines_hold_any_language(tmp_path: Path) -> None:
    atomic_files.write_jsonl(tmp_path / "a.jsonl", [{"t": "Kleid für 猫\u2028"}, {"t": "b"}])
    assert (tmp_path / "a.jsonl").read_bytes().count(b"\n") == 2
    assert "猫" in (tmp_path / "a.jsonl").read_text("utf-8")


def test_the_first_writer_wins_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "part"
    assert atomic_files.write_bytes(path, b"first", keep_existing=True)
    assert not atomic_files.write_bytes(path, b"second", keep_existing=True)
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "built"
    with pytest.raises(RuntimeError), atomic_files.building_folder(folder) as temporary:
        (temporary / "a").write_text("a")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with atomic_files.building_folder(folder) as temporary:
        (temporary / "a").write_text("ours")
        assert not folder.exists()
    assert (folder / "a").read_text() == "ours"


def test_a_folder_somebody_else_finished_meanwhile_stays(tmp_path: Path) -> None:
    folder = tmp_path / "built"
    with atomic_files.building_folder(folder) as temporary:
        (temporary / "a").write_text("ours")
        folder.mkdir()
        (folder / "a").write_text("theirs")
    assert (folder / "a").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [folder]
