"""`xr index use`: the choice is filled, measured, shown, and taken back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from qdrant_client import QdrantClient

from gateway.cli import DONE, USAGE, run
from gateway.commands import index_use
from shared.image_database import ImageDatabase
from shared.index_choice import read_choice
from tests.unit.shared.gallery_index_scenes import KEY, gallery, write_database

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning")


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageDatabase:
    monkeypatch.setenv("XR_HOME", str(tmp_path))
    return write_database(tmp_path / "image_db", gallery(1000))


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[QdrantClient]:
    client = QdrantClient(":memory:")
    monkeypatch.setattr(index_use, "connect_qdrant", lambda settings: client)
    yield client
    client.close()


def test_qdrant_is_filled_and_its_recall_is_shown(
    database: ImageDatabase, client: QdrantClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["index", "use", KEY[:6], "qdrant", "--queries", "8"]) == DONE
    shown = capsys.readouterr().out
    assert f"{KEY}: qdrant, recall@100 1.000" in shown
    assert "visual 1.0000, textual 1.0000, hybrid 1.0000" in shown
    choice = read_choice(database.folder)
    assert choice.ranks
    assert choice.recall is not None
    assert choice.recall.queries == 8
    assert run(["index", "list", "--json"]) == DONE
    (listed,) = json.loads(capsys.readouterr().out)["databases"]
    assert listed["index"] == "qdrant, recall@100 1.000"
    # What is not said stays as it was.
    assert run(["index", "use", KEY, "qdrant", "--hnsw-ef", "64", "--json"]) == DONE
    assert run(["index", "use", KEY, "qdrant", "--oversampling", "3"]) == DONE
    options = read_choice(database.folder).qdrant
    assert (options.hnsw_ef, options.oversampling) == (64, 3.0)


def test_exact_takes_the_collection_away(database: ImageDatabase, client: QdrantClient) -> None:
    assert run(["index", "use", KEY, "qdrant", "--queries", "2"]) == DONE
    assert run(["index", "use", KEY, "exact"]) == DONE
    assert read_choice(database.folder).summary() == "exact"
    assert client.get_collections().collections == []


def test_a_collection_without_its_database_is_cleared_away_when_asked(
    tmp_path: Path,
    database: ImageDatabase,
    client: QdrantClient,
    capsys: pytest.CaptureFixture[str],
) -> None:
    client.create_collection(f"xr-{'12' * 16}", vectors_config={})
    assert run(["index", "use", KEY, "qdrant", "--queries", "2"]) == DONE
    assert run(["index", "gc", "--dry-run", "--collections"]) == DONE
    assert f"collection xr-{'12' * 16}" in capsys.readouterr().out
    assert len(client.get_collections().collections) == 2
    assert run(["index", "gc", "--collections", "--json"]) == DONE
    assert [one.name for one in client.get_collections().collections] == [f"xr-{KEY}"]


def test_what_is_wrong_is_said(
    database: ImageDatabase, capsys: pytest.CaptureFixture[str], client: QdrantClient
) -> None:
    assert run(["index", "use", "ffff", "qdrant"]) == USAGE
    assert run(["index", "use", KEY, "qdrant", "--m", "0"]) == USAGE
    assert "m must be 1 to 65536" in capsys.readouterr().err
    assert run(["index", "use", KEY, "faiss"]) == USAGE
