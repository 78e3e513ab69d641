"""The similarity agent ranks by the index of each image database, as its folder says just now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from qdrant_client import QdrantClient

from agents.backends.torch_ranking import TorchIndex, open_device
from agents.backends.zero_cost import ZeroCostEmbeddingModel
from agents.similarity.indexes import Indexes, open_indexes
from agents.similarity.skills import SimilarityAgent
from agents.stores import Databases, Galleries
from shared.contracts.messages import Failure
from shared.contracts.skills import GalleryRanked, ListRequest, RankGallery
from shared.errors import ConfigurationError
from shared.gallery_index import ExactIndex
from shared.image_database import ImageDatabase
from shared.index_choice import EXACT, INDEX, IndexChoice, QdrantOptions, write_choice
from shared.qdrant_filling import fill_collection
from shared.qdrant_index import QdrantIndex, connect_qdrant
from shared.settings import Settings
from tests.unit.agents.scenes import make_database, make_gallery, message, write_pictures

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning")


@pytest.fixture
def database(tmp_path: Path) -> ImageDatabase:
    made = make_gallery(tmp_path / "galleries", write_pictures(tmp_path / "pictures", 6))
    return make_database(tmp_path, made, [None, *(f"caption {row}" for row in range(1, 6))])


@pytest.fixture
def client() -> Iterator[QdrantClient]:
    client = QdrantClient(":memory:")
    yield client
    client.close()


def _agent(home: Path, indexes: Indexes) -> SimilarityAgent:
    databases = Databases(home / "image_db")
    return SimilarityAgent(
        ZeroCostEmbeddingModel(), Galleries(home / "galleries"), databases, indexes
    )


def _ask(database: ImageDatabase) -> RankGallery:
    lists = (ListRequest("v1.visual", "visual", "v1"), ListRequest("v1.hybrid", "hybrid", "v1"))
    return RankGallery(database.key, {"v1": ("a red dress",)}, lists, 0.15, 3, excluded_rows=(2,))


def test_every_index_gives_the_answer_of_the_exact_one(
    tmp_path: Path, database: ImageDatabase, client: QdrantClient
) -> None:
    asked = [message(_ask(database))]
    expected = _agent(tmp_path, Indexes()).answer(asked)
    assert isinstance(expected[0], GalleryRanked)
    on_device = Indexes(open_device("cpu", 10**6))
    assert isinstance(on_device.of(database), TorchIndex)
    assert _agent(tmp_path, on_device).answer(asked) == expected
    write_choice(database.folder, fill_collection(client, database, QdrantOptions()))
    by_qdrant = Indexes(connect=lambda: client)
    assert isinstance(by_qdrant.of(database), QdrantIndex)
    assert _agent(tmp_path, by_qdrant).answer(asked) == expected


def test_a_running_agent_follows_the_choice(database: ImageDatabase, client: QdrantClient) -> None:
    indexes = Indexes(connect=lambda: client)
    assert isinstance(indexes.of(database), ExactIndex)
    ready = fill_collection(client, database, QdrantOptions())
    assert isinstance(indexes.of(database), ExactIndex)  # complete, but not yet chosen
    write_choice(database.folder, ready)
    first = indexes.of(database)
    assert isinstance(first, QdrantIndex)
    assert indexes.of(database) is first
    write_choice(database.folder, EXACT)
    assert isinstance(indexes.of(database), ExactIndex)


def test_qdrant_being_away_is_retried_and_a_missing_collection_is_not(
    tmp_path: Path, database: ImageDatabase, client: QdrantClient
) -> None:
    write_choice(
        database.folder, IndexChoice(kind="qdrant", collection=f"xr-{database.key}", points=6)
    )
    asked = [message(_ask(database))]
    nowhere = connect_qdrant(Settings(qdrant_url="http://127.0.0.1:9"))
    (away,) = _agent(tmp_path, Indexes(connect=lambda: nowhere)).answer(asked)
    assert isinstance(away, Failure)
    assert away.retryable
    (missing,) = _agent(tmp_path, Indexes(connect=lambda: client)).answer(asked)
    assert isinstance(missing, Failure)
    assert not missing.retryable
    assert f"xr index use {database.key} qdrant" in missing.reason
    (unset,) = _agent(tmp_path, Indexes()).answer(asked)
    assert isinstance(unset, Failure)
    assert "XR_QDRANT_URL is not set" in unset.reason
    (database.folder / INDEX).write_bytes(b"?")
    (damaged,) = _agent(tmp_path, Indexes()).answer(asked)
    assert isinstance(damaged, Failure)
    assert "index.json" in damaged.reason


def test_the_setting_names_the_device(database: ImageDatabase) -> None:
    class OnCpu:
        device = "cpu"

    assert isinstance(open_indexes(Settings(), OnCpu()).of(database), ExactIndex)
    on_torch = open_indexes(Settings(rank_device="cpu"), OnCpu())
    assert isinstance(on_torch.of(database), TorchIndex)
    with pytest.raises(ConfigurationError, match="XR_RANK_DEVICE 'abacus'"):
        open_indexes(Settings(rank_device="abacus"), OnCpu())
