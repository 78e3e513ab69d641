"""Filling a Qdrant collection: complete or not used, taken up again, refused with what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from shared import atomic_files, qdrant_filling
from shared.errors import ConfigurationError, DatasetError, TransientError
from shared.gallery_index import ExactIndex
from shared.image_database import ImageDatabase
from shared.index_choice import (
    EXACT,
    INDEX,
    IndexChoice,
    QdrantOptions,
    describe_choice,
    deviation_of,
    read_choice,
    write_choice,
)
from shared.index_recall import measure_recall
from shared.qdrant_filling import collection_names, fill_collection
from shared.qdrant_index import QdrantIndex, connect_qdrant
from shared.ranking_layout import Wanted
from shared.settings import Settings
from tests.unit.shared.gallery_index_scenes import KEY, gallery, unit, write_database

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning")
OPTIONS = QdrantOptions()
WANTED = [Wanted(vector.tobytes(), 0.85, 0.15) for vector in unit(4, 31)]


class _Client:
    """The embedded client; notes the rows that are sent, and fails when told to."""

    def __init__(self) -> None:
        self.inner = QdrantClient(":memory:")
        self.sent: list[int] = []
        self.troubles: list[Exception] = []
        self.lost_rows: set[int] = set()

    def upsert(self, name: str, batch: Any, wait: bool) -> None:
        if self.troubles:
            raise self.troubles.pop()
        self.sent += batch.ids
        self.inner.upsert(name, batch, wait=wait)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.fixture
def client() -> Iterator[_Client]:
    client = _Client()
    yield client
    client.inner.close()


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageDatabase:
    monkeypatch.setattr(qdrant_filling, "_BATCH_ROWS", 100)
    monkeypatch.setattr(qdrant_filling, "_ROWS_PER_NOTE", 200)
    monkeypatch.setattr(qdrant_filling.time, "sleep", lambda seconds: None)
    return write_database(tmp_path, gallery(1100))


def _fill(client: Any, database: ImageDatabase, options: QdrantOptions = OPTIONS) -> IndexChoice:
    choice = fill_collection(client, database, options)
    write_choice(database.folder, choice)
    return choice


def test_every_searchable_row_with_an_embedding_becomes_a_point(
    client: _Client, database: ImageDatabase
) -> None:
    seen: list[tuple[int, int]] = []
    choice = fill_collection(client, database, OPTIONS, lambda *shown: seen.append(shown))  # type: ignore[arg-type]
    assert seen[-1] == (1000, 1000)
    rows = set(range(1000)) - {0, 5}  # neither image nor caption
    assert set(client.sent) == rows
    assert choice.points == len(rows)
    assert read_choice(database.folder).state == "filling"  # until its recall is known
    assert not read_choice(database.folder).ranks
    assert choice.ranks


def test_a_filling_that_was_stopped_goes_on_where_it_was(
    client: _Client, database: ImageDatabase
) -> None:
    stopped = RuntimeError("killed")
    calls = 0

    def stop_after_half(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if done == 700:
            raise stopped

    with pytest.raises(RuntimeError):
        fill_collection(client, database, OPTIONS, stop_after_half)  # type: ignore[arg-type]
    noted = read_choice(database.folder)
    assert (noted.state, noted.filled_rows) == ("filling", 600)
    client.sent.clear()
    choice = _fill(client, database)
    assert min(client.sent) == 600
    found = QdrantIndex(client.inner, choice, database, KEY).rank(WANTED, 50)
    expected = ExactIndex(database).rank(WANTED, 50)
    assert [best.rows.tobytes() for best in found] == [best.rows.tobytes() for best in expected]


def test_what_is_complete_is_not_sent_again_and_another_layout_is_filled_anew(
    client: _Client, database: ImageDatabase
) -> None:
    _fill(client, database)
    client.sent.clear()
    faster = _fill(client, database, QdrantOptions(hnsw_ef=64, oversampling=4.0))
    assert (client.sent, faster.qdrant.hnsw_ef) == ([], 64)
    _fill(client, database, QdrantOptions(quantization="binary"))
    assert len(client.sent) == 998


def test_points_that_were_lost_are_noticed_and_sent_again(
    client: _Client, database: ImageDatabase
) -> None:
    choice = _fill(client, database)
    client.inner.delete(choice.collection, [17])
    with pytest.raises(DatasetError, match=f"997 points, not 998.*xr index use {KEY} qdrant"):
        QdrantIndex(client.inner, choice, database, KEY)
    client.sent.clear()
    assert _fill(client, database).points == 998
    assert 17 in client.sent


def test_a_missing_collection_is_refused_with_what_to_run(
    client: _Client, database: ImageDatabase
) -> None:
    choice = _fill(client, database)
    index = QdrantIndex(client.inner, choice, database, KEY)
    client.inner.delete_collection(choice.collection)
    for ask in (lambda: index.rank(WANTED, 5), lambda: _open(client, choice, database)):
        with pytest.raises(DatasetError, match=f"no collection xr-{KEY}.*xr index use {KEY}"):
            ask()


def _open(client: _Client, choice: IndexChoice, database: ImageDatabase) -> QdrantIndex:
    return QdrantIndex(client.inner, choice, database, KEY)


def test_a_server_that_is_away_for_a_while_is_asked_again(
    client: _Client, database: ImageDatabase
) -> None:
    away = ResponseHandlingException(OSError("refused"))
    client.troubles = [away, _answered(503), away]
    assert _fill(client, database).points == 998
    client.troubles = [away] * 50
    with pytest.raises(TransientError, match="cannot be reached"):
        fill_collection(client, database, QdrantOptions(m=8))  # type: ignore[arg-type]
    client.troubles = [_answered(400)]
    with pytest.raises(ConfigurationError, match="refuses"):
        fill_collection(client, database, QdrantOptions(m=9))  # type: ignore[arg-type]


def test_an_unreachable_server_is_a_trouble_that_may_pass(database: ImageDatabase) -> None:
    nobody = connect_qdrant(Settings(qdrant_url="http://127.0.0.1:9"))
    choice = IndexChoice(kind="qdrant", collection="xr-x", points=3)
    with pytest.raises(TransientError, match="cannot be reached"):
        QdrantIndex(nobody, choice, database, KEY)
    nobody.close()


def test_qdrant_without_a_url_or_with_an_unreadable_key_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="XR_QDRANT_URL is not set"):
        connect_qdrant(Settings())
    missing = str(tmp_path / "key")
    with pytest.raises(ConfigurationError, match=r"XR_QDRANT_API_KEY_FILE: .*key"):
        connect_qdrant(Settings(qdrant_url="http://127.0.0.1:9", qdrant_api_key_file=missing))


def test_two_cannot_fill_the_same_collection(client: _Client, database: ImageDatabase) -> None:
    def another(done: int, total: int) -> None:
        with pytest.raises(ConfigurationError, match="another process is filling"):
            fill_collection(client, database, OPTIONS)  # type: ignore[arg-type]

    fill_collection(client, database, OPTIONS, another)  # type: ignore[arg-type]


def test_recall_is_measured_by_kind_and_said_wherever_the_index_is(
    client: _Client, database: ImageDatabase
) -> None:
    choice = _fill(client, database)
    index = QdrantIndex(client.inner, choice, database, KEY)
    recall = measure_recall(index, database, queries=8, k=50)
    assert (recall.visual, recall.textual, recall.hybrid) == (1.0, 1.0, 1.0)

    class Half:
        def rank(self, wanted: Any, depth: int) -> Any:
            return [
                best._replace(rows=best.rows[: depth // 2]) for best in index.rank(wanted, depth)
            ]

    half = measure_recall(Half(), database, queries=8, k=50)
    assert half.lowest == 0.5
    measured = IndexChoice(kind="qdrant", collection="c", points=998, recall=half)
    write_choice(database.folder, measured)
    assert read_choice(database.folder) == measured
    assert measured.summary() == "qdrant, recall@50 0.500"
    assert "recall@50 against exact ranking is 0.500 visual" in deviation_of(measured)
    assert describe_choice(measured)["index"]["recall"]["hybrid"] == 0.5  # type: ignore[index]
    assert (deviation_of(EXACT), describe_choice(EXACT)) == ("", {})


def test_a_gallery_without_captions_has_its_recall_measured_by_its_images(
    client: _Client, tmp_path: Path
) -> None:
    embedded = gallery(1100)
    bare = write_database(
        tmp_path / "bare",
        embedded._replace(caption_embeddings=np.zeros_like(embedded.caption_embeddings)),
    )
    index = QdrantIndex(client.inner, _fill(client, bare), bare, KEY)
    recall = measure_recall(index, bare, queries=8, k=50)
    assert (recall.queries, recall.visual, recall.textual) == (8, 1.0, 1.0)


def test_collections_of_others_are_not_ours(client: _Client, database: ImageDatabase) -> None:
    _fill(client, database)
    client.inner.create_collection("xr-theirs", vectors_config={})
    assert collection_names(client) == [f"xr-{KEY}"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "damage", [b"{", b'{"kind": "faiss"}', b'{"kind": "qdrant", "qdrant": {"m": 0}}']
)
def test_a_damaged_choice_is_named_with_its_file(database: ImageDatabase, damage: bytes) -> None:
    atomic_files.write_bytes(database.folder / INDEX, damage)
    with pytest.raises(DatasetError, match=r"index\.json.*xr index use"):
        read_choice(database.folder)


def _answered(status: int) -> UnexpectedResponse:
    return UnexpectedResponse(status, "no", b"no", {})  # type: ignore[arg-type]
