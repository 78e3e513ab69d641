"""Two runs of one data set side by side: what they were, what they found, where they differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from broker.paired_metrics import PairedMetric, paired_metrics
from broker.recorded_run import RecordedRun, open_recorded_run
from broker.run_store import METRICS, PREDICTIONS, read_json
from shared.datasets import Protocol, Query, canonical_name, load_dataset
from shared.errors import ConfigurationError
from shared.metrics import first_hit_rank
from shared.settings import Settings

_ENVIRONMENT = ("settings", "versions", "commit", "schema_version")
"""Entries of a manifest that say where a run was made rather than what it is."""

Predictions = Mapping[str, Mapping[str, Any]]


class ChangedQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A query that one run hits within the first K and the other misses.

    A rank is None where the predictions of a run do not hold a target.
    """

    query_id: str
    modification_text: str
    first_rank: int | None
    second_rank: int | None


class RunDiff(msgspec.Struct, frozen=True, kw_only=True):
    """Everything two runs differ in.

    Attributes:
        manifest, environment: path -> [first, second], of what the runs are, and of where they were
            made.
        metrics: "stage.metric" -> [first, second], of those that both have.
        paired: metrics of the last stage; empty without ground truth.
        k: what `gained` and `lost` count as a hit: Recall@k.
        gained, lost: the queries that only the second, only the first run hits.
        identical: the predictions are the same bytes.
        first_difference: where not, the first line in which they differ; what, in words.
    """

    first: str
    second: str
    manifest: dict[str, tuple[Any, Any]]
    environment: dict[str, tuple[Any, Any]]
    metrics: dict[str, tuple[float, float]]
    paired: dict[str, PairedMetric]
    k: int
    gained: list[ChangedQuery]
    lost: list[ChangedQuery]
    identical: bool
    first_difference: str


def diff_runs(settings: Settings, first: str, second: str, k: int | None = None) -> RunDiff:
    """Compare two finished runs of one data set.

    Args:
        first, second: ids or folders.
        k: which hits `gained` and `lost` are about; default the protocol's smallest.
    Raises: ConfigurationError: no such run, one is not finished, or they are about different data.
    """
    runs = [open_recorded_run(settings.runs_folder, run) for run in (first, second)]
    about = [(canonical_name(run.request.dataset), run.request.split) for run in runs]
    if about[0] != about[1]:
        shown = " and ".join(" ".join(names) for names in about)
        raise ConfigurationError(f"the runs are about different data, {shown}: nothing to compare")
    one, two = (_predictions(run) for run in runs)
    benchmark = load_dataset(*about[0], settings.data_root, settings.home)
    queries = [query for query in benchmark.queries if query.query_id in {*one, *two}]
    k = k or min(benchmark.protocol.recall_ks or benchmark.protocol.hits_ks or (1,))
    differing = _differing(runs[0].manifest, runs[1].manifest)
    gained, lost = _changed(queries, benchmark.protocol, one, two, k)
    difference = _first_difference(runs)
    return RunDiff(
        first=runs[0].run_id,
        second=runs[1].run_id,
        manifest={name: both for name, both in differing.items() if not _is_environment(name)},
        environment={name: both for name, both in differing.items() if _is_environment(name)},
        metrics=_common_metrics(settings.runs_folder, runs),
        paired=paired_metrics(queries, benchmark.protocol, _rankings(one), _rankings(two)),
        k=k,
        gained=gained,
        lost=lost,
        identical=not difference,
        first_difference=difference,
    )


def _predictions(run: RecordedRun) -> dict[str, dict[str, Any]]:
    with (run.folder / PREDICTIONS).open(encoding="utf-8") as lines:
        return {line["query_id"]: line for line in map(json.loads, lines)}


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    one, two = dict(_leaves(first)), dict(_leaves(second))
    return {
        name: (one.get(name), two.get(name))
        for name in dict.fromkeys((*one, *two))
        if one.get(name) != two.get(name)
    }


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else str(name))
    else:
        yield path, value


def _is_environment(name: str) -> bool:
    return name.split(".", 1)[0] in _ENVIRONMENT


def _common_metrics(
    runs_folder: Path, runs: Sequence[RecordedRun]
) -> dict[str, tuple[float, float]]:
    one, two = (
        {
            f"{stage}.{metric}": value
            for stage, metrics in (read_json(runs_folder, run.run_id, METRICS) or {})
            .get("methods", {})
            .items()
            for metric, value in metrics.items()
        }
        for run in runs
    )
    return {name: (value, two[name]) for name, value in one.items() if name in two}


def _rankings(run: Predictions) -> dict[str, Any]:
    return {query_id: line.get("ranking") for query_id, line in run.items()}


def _changed(
    queries: Sequence[Query], protocol: Protocol, one: Predictions, two: Predictions, k: int
) -> tuple[list[ChangedQuery], list[ChangedQuery]]:
    gained: list[ChangedQuery] = []
    lost: list[ChangedQuery] = []
    for query in queries:
        targets = query.target_ids[:1] if protocol.recall_targets == "first" else query.target_ids
        ranks = [
            first_hit_rank(run.get(query.query_id, {}).get("ranking") or (), targets)
            for run in (one, two)
        ]
        hits = [rank is not None and rank <= k for rank in ranks]
        if hits[0] != hits[1]:
            (gained if hits[1] else lost).append(
                ChangedQuery(
                    query_id=query.query_id,
                    modification_text=query.modification_text,
                    first_rank=ranks[0],
                    second_rank=ranks[1],
                )
            )
    return gained, lost


def _first_difference(runs: Sequence[RecordedRun]) -> str:
    """Empty when the predictions are the same bytes."""
    one, two = ((run.folder / PREDICTIONS).read_bytes().splitlines() for run in runs)
    for number, (left, right) in enumerate(zip(one, two, strict=False), 1):
        if left != right:
            return f"line {number}: {_in_words(json.loads(left), json.loads(right))}"
    if len(one) != len(two):
        return f"line {min(len(one), len(two)) + 1}: only one run has it"
    return ""


def _in_words(left: Mapping[str, Any], right: Mapping[str, Any]) -> str:
    query = left["query_id"]
    if query != right["query_id"]:
        return f"query {query} and query {right['query_id']}"
    names = [name for name in dict.fromkeys((*left, *right)) if left.get(name) != right.get(name)]
    if names[:1] == ["ranking"]:
        pairs = enumerate(zip(left["ranking"], right["ranking"], strict=False), 1)
        for rank, (before, now) in pairs:
            if before != now:
                return f"query {query}, rank {rank}: {before} and {now}"
    name = names[0] if names else "spelling"
    return f"query {query}, {name}: {left.get(name)!r} and {right.get(name)!r}"
