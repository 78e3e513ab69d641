"""Qdrant's own engine (graphs, quantization, float16) within this process, behind the calls of its
client that the index uses: what a server would find, without a server.

The wheel `qdrant-edge-py` is one shard of Qdrant as a library. The client's embedded mode goes
through all vectors, so that its recall says nothing of graphs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import qdrant_edge as edge
from qdrant_client import models

_SMALL_KB, _FORCED_KB = 10_000, 10
"""Qdrant's own size of vectors that need no graph, and one that every gallery exceeds."""


class EdgeClient:
    """Collections are folders below `home`; one process at a time."""

    def __init__(self, home: Path, small_graphs: bool = False) -> None:
        """
        Args:
            small_graphs: also small galleries have a graph.
        """
        self._home = home
        self._least_kb = _FORCED_KB if small_graphs else _SMALL_KB
        self._shards: dict[str, Any] = {}

    def close(self) -> None:
        for shard in self._shards.values():
            shard.close()
        self._shards = {}

    def collection_exists(self, name: str) -> bool:
        return name in self._shards

    def delete_collection(self, name: str) -> None:
        if name in self._shards:
            self._shards.pop(name).close()

    def create_collection(
        self,
        name: str,
        *,
        vectors_config: dict[str, models.VectorParams],
        hnsw_config: models.HnswConfigDiff,
        quantization_config: Any,
        **_of_clusters: Any,
    ) -> None:
        number = len(list(self._home.glob(f"{name}.*")))
        config = edge.EdgeConfig(
            vectors={
                vector: edge.EdgeVectorParams(
                    size=given.size,
                    distance=edge.Distance.Dot,
                    datatype=edge.VectorStorageDatatype.Float16,
                )
                for vector, given in vectors_config.items()
            },
            hnsw_config=edge.HnswIndexConfig(
                m=hnsw_config.m,
                ef_construct=hnsw_config.ef_construct,
                full_scan_threshold=self._least_kb,
            ),
            quantization_config=_quantization(quantization_config),
            optimizers=edge.EdgeOptimizersConfig(
                indexing_threshold=self._least_kb, default_segment_number=os.cpu_count()
            ),
        )
        folder = self._home / f"{name}.{number}"
        self._shards[name] = edge.EdgeShard.create(str(folder), config)

    def upsert(self, name: str, batch: models.Batch, wait: bool) -> None:
        assert isinstance(batch.vectors, dict)
        points = [
            edge.Point(id=row, vector={n: of[place] for n, of in batch.vectors.items()})
            for place, row in enumerate(batch.ids)
        ]
        self._shard(name).update(edge.UpdateOperation.upsert_points(points))

    def get_collection(self, name: str) -> Any:
        """Green once the graphs are built, which this waits for."""
        while self._shard(name).optimize():
            pass
        return SimpleNamespace(status=models.CollectionStatus.GREEN)

    def indexed_vectors(self, name: str) -> int:
        count: int = self._shard(name).info().indexed_vectors_count
        return count

    def count(self, name: str, exact: bool) -> Any:
        return SimpleNamespace(count=self._shard(name).count(edge.CountRequest(exact=exact)))

    def query_batch_points(self, name: str, requests: Sequence[models.QueryRequest]) -> list[Any]:
        asked = edge.QueryBatchRequest([_query(request) for request in requests])
        answers = self._shard(name).query_batch(asked)
        return [SimpleNamespace(points=points) for points in answers]

    def _shard(self, name: str) -> Any:
        if name not in self._shards:
            raise ValueError(f"collection {name} not found")
        return self._shards[name]


def _query(request: models.QueryRequest) -> Any:
    params = request.params
    assert params is not None
    searched = params.quantization
    condition = None
    if request.filter is not None:
        (has_id,) = json.loads(request.filter.model_dump_json(exclude_none=True))["must"]
        condition = edge.Filter(must=[edge.HasIdCondition(set(has_id["has_id"]))])
    return edge.QueryRequest(
        limit=request.limit,
        query=edge.Query.Nearest(request.query, using=request.using),
        filter=condition,
        with_payload=False,
        with_vector=False,
        params=edge.SearchParams(
            hnsw_ef=params.hnsw_ef,
            quantization=None
            if searched is None
            else edge.QuantizationSearchParams(
                rescore=searched.rescore, oversampling=searched.oversampling
            ),
        ),
    )


def _quantization(given: Any) -> Any:
    if isinstance(given, models.ScalarQuantization):
        return edge.ScalarQuantizationConfig(type=edge.ScalarType.Int8, always_ram=True)
    if isinstance(given, models.BinaryQuantization):
        return edge.BinaryQuantizationConfig(always_ram=True)
    return None
