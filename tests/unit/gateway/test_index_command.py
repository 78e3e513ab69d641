"""`xr index`: what is asked of the gateway, and what is said of the files in XR_HOME."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from gateway.cli import DONE, FAILED, USAGE, run
from gateway.commands import index
from gateway.commands.index import split_of
from gateway.records import BenchmarkView
from shared.image_database import ImageDatabase
from tests.unit.shared.index_scenes import make_database, make_gallery

FINISHED = BenchmarkView(
    id="CIRR_val~index",
    dataset="cirr",
    split="val",
    name="index",
    state="finished",
    note="image database 0123",
    counts={"images": 3, "failed_images": 1},
)


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageDatabase:
    monkeypatch.setenv("XR_HOME", str(tmp_path))
    return make_database(tmp_path, make_gallery(tmp_path, 5, missing=4))


class FakeClient:
    """Notes what is submitted; every run has finished."""

    def __init__(self) -> None:
        self.submitted: list[tuple[str, str, dict[str, Any]]] = []

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is open."""

    def submit(self, dataset: str, split: str, **options: Any) -> BenchmarkView:
        self.submitted.append((dataset, split, options))
        return FINISHED

    def follow(self, benchmark_id: str, **options: object) -> list[BenchmarkView]:
        return [FINISHED]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    fake = FakeClient()
    monkeypatch.setattr(index, "connect", lambda gateway: fake)
    return fake


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ("CIRCO:test", ("CIRCO", "test")),
        ("cirr", ("cirr", "val")),
        ("flickr30k", ("flickr30k", "test")),
        ("demo", ("demo", "val")),
        ("folder:my/pictures", ("folder:my/pictures", "all")),
    ],
)
def test_a_split_that_is_not_named_is_val_or_the_only_one(
    images: str, expected: tuple[str, str]
) -> None:
    assert split_of(images) == expected


def test_building_submits_a_run_that_only_indexes(
    client: FakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["index", "build", "CIRR:test1", "--retry-failed", "--verify"]) == DONE
    ((dataset, split, options),) = client.submitted
    assert (dataset, split) == ("CIRR", "test1")
    assert options == {
        "name": "index",
        "index_only": True,
        "retry_failed": True,
        "read_images_again": True,
    }
    shown = capsys.readouterr().out
    assert "finished: images 3, failed images 1" in shown
    assert "image database 0123" in shown


def test_the_list_names_every_database(
    database: ImageDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["index", "list", "--json"]) == DONE
    listed = json.loads(capsys.readouterr().out)
    assert [entry["key"] for entry in listed["databases"]] == [database.key]
    assert listed["databases"][0]["captions"] == 4
    assert run(["index", "list"]) == DONE
    assert database.key[:12] in capsys.readouterr().out


def test_verifying_says_what_is_wrong_and_fails(
    database: ImageDatabase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["index", "verify"]) == DONE
    assert f"{database.key}: sound" in capsys.readouterr().out
    (tmp_path / "images" / "2.png").unlink()
    assert run(["index", "verify", database.key[:8], "--json"]) == FAILED
    (findings,) = json.loads(capsys.readouterr().out).values()
    assert not findings["sound"]
    assert "img2" in findings["findings"][0]["where"]
    assert run(["index", "verify", "no-such-key"]) == USAGE


def test_clearing_away_takes_what_is_old_and_a_dry_run_takes_nothing(
    database: ImageDatabase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    then = time.time() - 40 * 24 * 3600
    for path in [database.folder, tmp_path / "galleries" / database.gallery_key]:
        os.utime(path, (then, then))
    assert run(["index", "gc", "--unused-days", "50"]) == DONE
    assert database.folder.is_dir()
    assert run(["index", "gc", "--dry-run", "--json"]) == DONE
    kinds = [
        removal["kind"]
        for removal in json.loads(capsys.readouterr().out.split("\n", 1)[1])["removed"]
    ]
    assert kinds == ["database", "gallery"]
    assert database.folder.is_dir()
    assert run(["index", "gc"]) == DONE
    assert not database.folder.exists()
    assert "freed" in capsys.readouterr().out
