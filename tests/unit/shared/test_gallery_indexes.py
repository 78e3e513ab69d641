"""Every index answers as the exact one: formulas, exclusions, subsets, zero rows, ties, bytes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from qdrant_client import QdrantClient

from agents.backends.torch_ranking import DeviceGalleries, TorchIndex
from shared.contracts.skills import ListRequest, RankGallery
from shared.errors import ItemError
from shared.gallery_index import ExactIndex, GalleryIndex, rank_candidates
from shared.index_choice import QdrantOptions
from shared.index_recall import measure_recall
from shared.qdrant_filling import fill_collection
from shared.qdrant_index import QdrantIndex
from shared.ranking import Ranked, rank_galleries
from shared.ranking_layout import Wanted
from tests.benchmarks.edge_client import EdgeClient
from tests.unit.shared.gallery_index_scenes import (
    KEY,
    Embedded,
    gallery,
    unit,
    write_database,
)

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning")

MakeIndex = Callable[[Embedded], GalleryIndex]
WEIGHTS = ((1.0, 0.0), (0.0, 1.0), (0.85, 0.15), (0.5, 0.5))


@pytest.fixture(params=["exact", "torch", "qdrant", "qdrant engine"])
def make_index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeIndex]:
    clients: list[Any] = []
    numbers = itertools.count()

    def make(embedded: Embedded) -> GalleryIndex:
        if request.param == "exact":
            return ExactIndex(embedded)
        if request.param == "torch":
            return DeviceGalleries("cpu", 10**9).index(KEY, embedded)
        home = tmp_path / str(next(numbers))
        engine = request.param == "qdrant engine"
        client: Any = EdgeClient(home / "qdrant") if engine else QdrantClient(":memory:")
        clients.append(client)
        database = write_database(home, embedded)
        choice = fill_collection(client, database, QdrantOptions())
        return QdrantIndex(client, choice, database, KEY)

    yield make
    for client in clients:
        client.close()


def _wanted(vectors: np.ndarray[Any, Any], **restrictions: Any) -> list[Wanted]:
    return [Wanted(v.tobytes(), *weights, **restrictions) for v in vectors for weights in WEIGHTS]


def _assert_same(index: GalleryIndex, embedded: Embedded, wanted: list[Wanted], depth: int) -> None:
    expected = ExactIndex(embedded).rank(wanted, depth)
    for one, ours, exact in zip(wanted, index.rank(wanted, depth), expected, strict=True):
        assert ours.rows.tolist() == exact.rows.tolist(), one[1:]
        assert ours.scores.tobytes() == exact.scores.tobytes()
        assert ours.rows.dtype == np.int32


@pytest.mark.parametrize("depth", [1, 100, 5000])
def test_random_galleries_rank_with_the_bytes_of_the_exact_index(
    make_index: MakeIndex, depth: int
) -> None:
    embedded = gallery()
    _assert_same(make_index(embedded), embedded, _wanted(unit(12, 7)), depth)


def test_ties_go_to_the_lower_row_also_across_the_cut(make_index: MakeIndex) -> None:
    embedded = gallery(1500, coarse=True)
    vectors = (np.round(unit(8, 9) * 4) / 8).astype(np.float32)
    vectors = vectors[vectors.any(axis=1)]
    index = make_index(embedded)
    if isinstance(index, QdrantIndex):  # it breaks ties as it likes: as many as tie are asked for
        _assert_same(index, embedded, _wanted(vectors), 1500)
    else:
        for depth in (1, 7, 100):
            _assert_same(index, embedded, _wanted(vectors), depth)


def test_excluded_rows_subsets_and_rows_without_embedding_are_never_ranked(
    make_index: MakeIndex,
) -> None:
    embedded = gallery()
    index = make_index(embedded)
    vectors = unit(3, 11)
    first = ExactIndex(embedded).rank(_wanted(vectors), 3)
    excluded = tuple(sorted({int(row) for ranked in first for row in ranked.rows}))
    few, many = (5, 97, 89, 7, 2950), tuple(range(0, 2960, 3))
    for restrictions in (
        {"excluded": excluded},
        {"subset": tuple(sorted(few))},
        {"subset": many, "excluded": excluded},
        {"subset": ()},
    ):
        _assert_same(index, embedded, _wanted(vectors, **restrictions), 10)
    for ranked in index.rank(_wanted(vectors, excluded=excluded), 50):
        assert not set(excluded) & set(ranked.rows.tolist())
        assert ranked.rows.max() < embedded.searchable
        assert 5 not in ranked.rows


def test_a_large_subset_is_searched_by_its_filter(
    make_index: MakeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.qdrant_index._FEW_ROWS", 10)
    monkeypatch.setattr("agents.backends.torch_ranking._FEW_ROWS", 10)
    embedded = gallery()
    index = make_index(embedded)
    subsets = [tuple(range(0, 2960, step)) for step in (3, 7)]
    wanted = [
        one for subset in subsets for one in _wanted(unit(3, 12), subset=subset, excluded=(21, 42))
    ]
    _assert_same(index, embedded, wanted, 40)


def test_requests_are_answered_and_refused_alike(make_index: MakeIndex) -> None:
    embedded = gallery()
    vector = unit(1, 13)[0]
    lists = (
        *(ListRequest(kind, kind, "v1") for kind in ("visual", "textual", "hybrid")),
        ListRequest("image_only", "image_only", ""),
    )
    good = RankGallery("key", {"v1": ("red",)}, lists, 0.15, 20, reference_row=7)
    bad = RankGallery("key", {"v1": ("red",)}, lists, 0.15, 20, reference_row=9999)
    asked = [Ranked(request, {"red": vector.tobytes()}) for request in (bad, good)]
    refused, answered = rank_galleries(asked, embedded, make_index(embedded))
    assert isinstance(refused, ItemError)
    assert answered == rank_galleries(asked, embedded)[1]


def test_the_order_of_requests_and_their_neighbours_change_nothing(make_index: MakeIndex) -> None:
    embedded = gallery()
    index = make_index(embedded)
    wanted = _wanted(unit(9, 14))
    together = dict(zip(wanted, index.rank(wanted, 30), strict=True))
    for one in wanted[::5]:
        (alone,) = index.rank([one], 30)
        assert alone.rows.tobytes() == together[one].rows.tobytes()
        assert alone.scores.tobytes() == together[one].scores.tobytes()


def test_graphs_of_qdrants_engine_find_what_exact_ranking_finds(tmp_path: Path) -> None:
    centres = np.repeat(unit(30, 16, 64), 100, axis=0)
    images, captions = (centres + 0.7 * unit(3000, seed, 64) for seed in (17, 18))
    images, captions = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in (images, captions))
    embedded = Embedded(images.astype(np.float16), captions.astype(np.float16), 3000)
    client: Any = EdgeClient(tmp_path / "qdrant", small_graphs=True)
    database = write_database(tmp_path / "image_db", embedded)
    choice = fill_collection(client, database, QdrantOptions())
    assert client.indexed_vectors(choice.collection) == 3 * 3000
    recall = measure_recall(QdrantIndex(client, choice, database, KEY), database)
    assert recall.lowest >= 0.99
    client.close()


# --- the parts ------------------------------------------------------------------------------------


def test_candidates_are_scored_as_the_whole_gallery_scores_them() -> None:
    embedded = gallery(coarse=True)
    wanted = _wanted(unit(20, 15))
    exact = ExactIndex(embedded).rank(wanted, 60)
    draw = np.random.default_rng(3)
    candidates = {
        one: draw.permutation(np.concatenate([best.rows, draw.integers(0, 3000, 50), best.rows]))
        for one, best in zip(wanted, exact, strict=True)
    }
    scored = rank_candidates(embedded, candidates, 60)
    for one, best in zip(wanted, exact, strict=True):
        assert scored[one].rows.tobytes() == best.rows.tobytes()
        assert scored[one].scores.tobytes() == best.scores.tobytes()


def test_large_float16_galleries_agree_on_the_device_in_several_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agents.backends.torch_ranking._BLOCK_ROWS", 1000)
    monkeypatch.setattr("agents.backends.torch_ranking._MOST_LISTS", 7)
    images, captions = (unit(6400, seed, 512).astype(np.float16) for seed in (21, 22))
    embedded = Embedded(images, captions, 6399)
    wanted = _wanted(unit(16, 23, 512), excluded=(0, 999, 1000, 6398))
    index = TorchIndex(embedded, torch.device("cpu"))
    _assert_same(index, embedded, wanted, 100)


def test_rows_that_tie_by_the_hundred_are_still_ranked_by_row() -> None:
    """More rows alike than candidates are taken: they are taken again, then ranked exactly."""
    images = np.repeat(unit(3, 24), 2000, axis=0).astype(np.float16)
    embedded = Embedded(images, images, len(images))
    index = TorchIndex(embedded, torch.device("cpu"))
    _assert_same(index, embedded, _wanted(unit(4, 25)), 50)


def test_galleries_are_resident_within_the_budget_and_the_oldest_makes_room() -> None:
    embedded = gallery()
    size = 2 * embedded.searchable * embedded.image_embeddings.shape[1] * 2
    device = DeviceGalleries("cpu", 2 * size)
    first, second = device.index("a", embedded), device.index("b", embedded)
    assert device.index("a", embedded) is first
    third = device.index("c", embedded)
    assert device.index("a", embedded) is first
    assert device.index("c", embedded) is third
    assert device.index("b", embedded) is not second
    assert isinstance(DeviceGalleries("cpu", size - 1).index("a", embedded), ExactIndex)


def test_a_device_without_room_leaves_the_ranking_to_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    embedded = gallery()
    device = DeviceGalleries("cpu", 10**9)
    index = device.index("a", embedded)

    def full(*given: Any, **named: Any) -> Any:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(TorchIndex, "_candidates", full)
    _assert_same(index, embedded, _wanted(unit(2, 26)), 10)
    monkeypatch.setattr(TorchIndex, "__init__", full)
    assert isinstance(device.index("b", embedded), ExactIndex)
    monkeypatch.undo()
    assert isinstance(device.index("b", embedded), ExactIndex)  # it is not tried again and again
