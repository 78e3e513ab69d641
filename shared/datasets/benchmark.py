"""The records every data set is read into."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from shared.errors import DatasetError


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """One query of a data set.

    Attributes:
        reference_id: the reference image; None for text-to-image queries.
        modification_text: T_m as the data set has it; empty in a few official queries, which are
            kept and end as failed.
        target_ids: every ground truth; the first is *the* target where a protocol knows one only.
            Empty where the ground truth is not published.
        subset_ids: the images ranked for the subset metric, without the reference.
        tags: what the results are broken down by, e.g. {"level": "2"}.
    """

    query_id: str
    reference_id: str | None
    modification_text: str
    target_ids: tuple[str, ...]
    subset_ids: tuple[str, ...] = ()
    tags: dict[str, str] = {}


class Protocol(msgspec.Struct, frozen=True, kw_only=True):
    """How a data set is evaluated officially.

    Attributes:
        exclude_reference: whether the reference image is taken out of the gallery.
        recall_ks, map_ks, subset_ks: the K of Recall@K, mAP@K and Recall_subset@K; empty = not a
            metric of this data set.
        recall_targets: "any" target counts as a hit, or only the "first".
    """

    exclude_reference: bool
    recall_ks: tuple[int, ...] = (1, 5, 10, 50)
    map_ks: tuple[int, ...] = ()
    subset_ks: tuple[int, ...] = ()
    recall_targets: Literal["any", "first"] = "any"


class Benchmark(msgspec.Struct, frozen=True, kw_only=True):
    """A data set split: what is searched, what is asked, and how it is scored.

    Attributes:
        images: (image id, file), searchable ones first.
        searchable: how many of the images are searched; the rest are reference images only.
    """

    name: str
    split: str
    images: tuple[tuple[str, Path], ...]
    searchable: int
    queries: tuple[Query, ...]
    protocol: Protocol

    def __post_init__(self) -> None:
        ids = [query.query_id for query in self.queries]
        if len(set(ids)) != len(ids):
            twice = next(query_id for query_id in ids if ids.count(query_id) > 1)
            raise DatasetError(f"{self.name} {self.split}: two queries have the id {twice!r}")
