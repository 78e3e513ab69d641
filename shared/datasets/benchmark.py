"""The records every data set is read into."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from shared.contracts.limits import MAX_QUERY_ID_CHARACTERS, too_long
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
        aspects: the semantic aspects the text speaks of; a query counts in each of them.
        dialogue_id: the dialogue this query is one round of; empty = no dialogue.
        round: 0-based round of the dialogue. Round 0 is the opening caption; `modification_text`
            is what this round adds, not the dialogue so far.
        previous_id: the query of the round before; empty in round 0.
    """

    query_id: str
    reference_id: str | None
    modification_text: str
    target_ids: tuple[str, ...]
    subset_ids: tuple[str, ...] = ()
    tags: dict[str, str] = {}
    aspects: tuple[str, ...] = ()
    dialogue_id: str = ""
    round: int | None = None
    previous_id: str = ""


class Protocol(msgspec.Struct, frozen=True, kw_only=True):
    """How a data set is evaluated officially.

    Attributes:
        exclude_reference: whether the reference image is taken out of the gallery.
        recall_ks, map_ks, subset_ks: the K of Recall@K, mAP@K and Recall_subset@K; empty = not a
            metric of this data set.
        hits_ks: the K of Hits@K, per dialogue round; empty = the queries are no dialogues.
        recall_targets: "any" target counts as a hit, or only the "first".
        submission: the server whose files a run writes; empty = there is none.
        deviations: what differs from the official protocol or data, in words; printed with every
            result.
    """

    exclude_reference: bool
    recall_ks: tuple[int, ...] = (1, 5, 10, 50)
    map_ks: tuple[int, ...] = ()
    subset_ks: tuple[int, ...] = ()
    hits_ks: tuple[int, ...] = ()
    recall_targets: Literal["any", "first"] = "any"
    submission: Literal["", "cirr", "circo"] = ""
    deviations: tuple[str, ...] = ()

    def describe(self) -> str:
        """The metrics and rules in one line, e.g. "Recall@10,50; reference kept"."""
        first = " (first target)" if self.recall_targets == "first" else ""
        metrics = [
            f"{name}@{','.join(map(str, ks))}{remark}"
            for name, ks, remark in (
                ("Recall", self.recall_ks, first),
                ("mAP", self.map_ks, ""),
                ("R_subset", self.subset_ks, ""),
                ("Hits", self.hits_ks, " per round"),
            )
            if ks
        ]
        reference = "reference excluded" if self.exclude_reference else "reference kept"
        return "; ".join([*metrics, reference])


class Benchmark(msgspec.Struct, frozen=True, kw_only=True):
    """A data set split: what is searched, what is asked, and how it is scored.

    Attributes:
        images: (image id, path), searchable ones first.
        searchable: how many of the images are searched; the rest are reference images only.
        captions: image id -> caption, of images that came with one of their own.
        metadata: image id -> fields to filter by.
        gallery: the key of a gallery that is written already; empty = it is made of the images.
    """

    name: str
    split: str
    images: Sequence[tuple[str, Path]]
    searchable: int
    queries: tuple[Query, ...]
    protocol: Protocol
    captions: Mapping[str, str] = {}
    metadata: Mapping[str, dict[str, str | int | float | bool]] = {}
    gallery: str = ""

    def __post_init__(self) -> None:
        ids = [query.query_id for query in self.queries]
        if len(set(ids)) != len(ids):
            twice, _ = Counter(ids).most_common(1)[0]
            raise DatasetError(f"{self.name} {self.split}: two queries have the id {twice!r}")
        for query_id in ids:
            if problem := too_long("a query id", query_id, MAX_QUERY_ID_CHARACTERS):
                raise DatasetError(f"{self.name} {self.split}: {problem} ({query_id[:40]!r}...)")
