"""Which index a gallery's image database is ranked by: index.json in its folder.

No part of the database's key: an index changes no caption and no embedding, and may be changed at
any time. Without the file, ranking is exact.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from shared import atomic_files
from shared.errors import MALFORMED, DatasetError

INDEX = "index.json"

IndexKind = Literal["exact", "qdrant"]
Quantization = Literal["none", "scalar", "binary"]


class QdrantOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a collection is laid out and searched; the names are Qdrant's own.

    Attributes:
        quantization: of the vectors the graph is searched with: none, scalar (int8) or binary.
        oversampling: candidates per row that is asked for; they are scored exactly afterwards.
        hnsw_ef: how many neighbours are followed at once while searching.
        m, ef_construct: links per node of the graph, and neighbours compared to find them.
        on_disk: full vectors stay on the disk; what is quantized is in memory.
        shard_number, replication_factor: of the collection, on a cluster.
    """

    quantization: Quantization = "scalar"
    oversampling: float = 2.0
    hnsw_ef: int = 512
    m: int = 16
    ef_construct: int = 100
    on_disk: bool = True
    shard_number: int = 1
    replication_factor: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.oversampling <= 100:
            raise ValueError("oversampling must be 1 to 100")
        for name in ("hnsw_ef", "m", "ef_construct", "shard_number", "replication_factor"):
            if not 1 <= getattr(self, name) <= 65_536:
                raise ValueError(f"{name} must be 1 to 65536")

    @property
    def layout(self) -> tuple[object, ...]:
        """What a collection is built with; the rest may change without filling it anew."""
        built = (self.quantization, self.m, self.ef_construct, self.on_disk)
        return *built, self.shard_number, self.replication_factor


class MeasuredRecall(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the exact index's answer the index found, over sampled queries.

    Attributes:
        k: rows per list.
        visual, textual, hybrid: mean share of the exact `k` best rows, by kind of list.
        times_exact: seconds taken beside those of the exact index, in the same run.
        measured_at: UTC, ISO 8601.
    """

    k: int
    queries: int
    visual: float
    textual: float
    hybrid: float
    times_exact: float
    measured_at: str

    @property
    def lowest(self) -> float:
        return min(self.visual, self.textual, self.hybrid)


class IndexChoice(msgspec.Struct, frozen=True, kw_only=True):
    """index.json.

    Attributes:
        state: "filling": ranking is exact until all rows are in.
        collection: its name in Qdrant.
        filled_rows: rows below are in the collection; filling goes on from here.
        points: in the complete collection.
        recall: None until it has been measured.
    """

    kind: IndexKind = "exact"
    state: Literal["filling", "ready"] = "ready"
    qdrant: QdrantOptions = QdrantOptions()
    collection: str = ""
    filled_rows: int = 0
    points: int = 0
    recall: MeasuredRecall | None = None

    @property
    def ranks(self) -> bool:
        """Whether searches use it, rather than the exact index."""
        return self.kind != "exact" and self.state == "ready"

    def summary(self) -> str:
        """For a table: "exact", "qdrant, filling" or "qdrant, recall@100 0.998"."""
        if self.kind == "exact":
            return "exact"
        if self.state == "filling":
            return f"{self.kind}, filling"
        recall = self.recall
        told = "not measured" if recall is None else f"{recall.lowest:.3f}"
        return f"{self.kind}, recall@{recall.k if recall else 100} {told}"


EXACT = IndexChoice()


def read_choice(database_folder: Path) -> IndexChoice:
    """Raises: DatasetError: index.json cannot be read."""
    path = database_folder / INDEX
    try:
        return msgspec.json.decode(path.read_bytes(), type=IndexChoice)
    except FileNotFoundError:
        return EXACT
    except (OSError, ValueError, *MALFORMED) as error:
        raise DatasetError(
            f"{path}: {error}; choose the index again with `xr index use`"
        ) from error


def write_choice(database_folder: Path, choice: IndexChoice) -> None:
    atomic_files.write_json(database_folder / INDEX, msgspec.to_builtins(choice))


def deviation_of(choice: IndexChoice) -> str:
    """What a run ranked by this index says beside its figures; empty when ranking is exact."""
    if not choice.ranks:
        return ""
    recall = choice.recall
    if recall is None:
        return f"ranked by {choice.kind}, whose recall has not been measured"
    return (
        f"ranked by {choice.kind}, whose recall@{recall.k} against exact ranking is"
        f" {recall.visual:.3f} visual, {recall.textual:.3f} textual, {recall.hybrid:.3f} hybrid"
        f" ({recall.queries} sampled queries)"
    )


def describe_choice(choice: IndexChoice) -> dict[str, object]:
    """For a run's manifest: nothing when ranking is exact, else the index with its recall."""
    if not choice.ranks:
        return {}
    recall = None if choice.recall is None else msgspec.to_builtins(choice.recall)
    options = msgspec.to_builtins(choice.qdrant)
    return {"index": {"kind": choice.kind, "options": options, "recall": recall}}
