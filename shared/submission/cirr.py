"""CIRR's server: its two files' form, and what it refuses.

{"version": "rc2", "metric": "recall" or "recall_subset", "<pairid>": [names, best first], ...}
with 50 names a query for recall and 3 of the query's own set for recall_subset; the reference image
is never among them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

from shared.datasets.benchmark import Benchmark, Query

Metric = Literal["recall", "recall_subset"]
LENGTHS: dict[Metric, int] = {"recall": 50, "recall_subset": 3}
VERSION = "rc2"
_HEAD = ("version", "metric")


def content_of(rankings: Mapping[str, Sequence[str]], metric: Metric) -> dict[str, Any]:
    """The file's content from rankings of exactly the right length, by pairid."""
    return {"version": VERSION, "metric": metric} | {
        pair: list(names) for pair, names in rankings.items()
    }


def candidates(query: Query, metric: Metric, gallery: Sequence[str]) -> Sequence[str]:
    """What may be named for a query, in the data set's order, the reference still among it."""
    return query.subset_ids if metric == "recall_subset" else gallery


def problems(
    content: Mapping[str, Any], benchmark: Benchmark | None, gallery: Collection[str]
) -> Iterator[str]:
    """What the server would refuse of the queries that are there."""
    if content.get("version") != VERSION:
        yield f'"version" is {content.get("version")!r}: it must be "{VERSION}"'
    metric = next((known for known in LENGTHS if known == content.get("metric")), None)
    if metric is None:
        yield f'"metric" is {content.get("metric")!r}: it must be "recall" or "recall_subset"'
        return
    rankings = {pair: names for pair, names in content.items() if pair not in _HEAD}
    images = frozenset(gallery)
    known = {query.query_id: query for query in benchmark.queries} if benchmark else {}
    for pair, names in rankings.items():
        if not (pair.isascii() and pair.isdigit()):
            yield f"{pair!r} is no pairid"
            continue
        for problem in _of_names(names, metric, known.get(pair), images):
            yield f"pairid {pair}: {problem}"


def _of_names(
    names: Any, metric: Metric, query: Query | None, gallery: frozenset[str]
) -> Iterator[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        yield "not a list of image names"
        return
    if len(set(names)) != len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        yield f"{twice} stands twice"
    wanted = LENGTHS[metric]
    if query is not None:
        allowed = frozenset(query.subset_ids) if metric == "recall_subset" else gallery
        if allowed:
            wanted = min(wanted, len(allowed - {query.reference_id}))
        if query.reference_id in names:
            yield f"the reference image {query.reference_id} is among the names"
        strange = [name for name in names if name not in allowed and name != query.reference_id]
        if allowed and strange:
            where = "the query's set" if metric == "recall_subset" else "the gallery"
            yield f"{strange[0]} is not in {where}{_extension(strange[0])}"
    elif any(_extension(name) for name in names):
        strange_name = next(name for name in names if _extension(name))
        yield f"{strange_name}{_extension(strange_name)}"
    if len(names) != wanted:
        yield f"{len(names)} names instead of {wanted}"


def _extension(name: str) -> str:
    return " (names have no extension)" if name.lower().endswith((".png", ".jpg")) else ""
