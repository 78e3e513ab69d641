"""From the states of a run to its predictions and its metrics per stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from broker.query_state import QueryState
from broker.results_table import TITLES
from broker.stages import Rankings, final_stage, rankings_by_stage, subset_rankings_by_stage
from shared.datasets import Benchmark, Query
from shared.knobs import BASELINES, Knobs
from shared.metrics import RESAMPLES, by_tag, evaluate

States = Mapping[str, QueryState]
ImageId = Callable[[int], str]

PREDICTION_DEPTH = 50
_MOST_TAG_VALUES = 20
_FAILURES_SHOWN = 3


@dataclass(frozen=True)
class RunRankings:
    """Every ranking of a run by query id, of the gallery and of the queries' subsets."""

    gallery: Mapping[str, Rankings]
    subsets: Mapping[str, Rankings]


def rank_run(states: States, knobs: Knobs) -> RunRankings:
    """All rankings of all queries, from their states alone."""
    return RunRankings(
        {query_id: rankings_by_stage(state, knobs) for query_id, state in states.items()},
        {query_id: subset_rankings_by_stage(state, knobs) for query_id, state in states.items()},
    )


def predictions(
    queries: Sequence[Query],
    states: States,
    rankings: RunRankings,
    knobs: Knobs,
    image_id: ImageId,
) -> Iterator[dict[str, Any]]:
    """One line per query, in the data set's order: the last stage's best 50 ids, or why none."""
    last = final_stage(knobs)
    for query in queries:
        state = states.get(query.query_id)
        if state is None:
            yield {"query_id": query.query_id, "status": "missing", "reason": "not answered yet"}
        elif state.status == "failed":
            yield {"query_id": query.query_id, "status": "failed", "reason": state.reason}
        else:
            rows = rankings.gallery[query.query_id][last][:PREDICTION_DEPTH]
            line: dict[str, Any] = {
                "query_id": query.query_id,
                "status": "ok",
                "ranking": [image_id(row) for row in rows],
            }
            if state.fallbacks:
                line["fallbacks"] = list(state.fallbacks)
            failures = state.item_failures
            if failures:
                line["failed_candidates"] = len(failures)
                line["first_failures"] = [
                    {"skill": skill, "image": image_id(row), "reason": reason}
                    for skill, row, reason in failures[:_FAILURES_SHOWN]
                ]
            yield line


def evaluate_run(
    benchmark: Benchmark,
    queries: Sequence[Query],
    states: States,
    rankings: RunRankings,
    knobs: Knobs,
    image_id: ImageId,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Metrics of every stage with confidence intervals, by tag and by dialogue round, and counts.

    Args:
        resamples: of the bootstrap; 0 leaves the intervals out.
    Returns: {"final_stage", "protocol", "deviations", "methods": {stage: {metric: value}},
        "intervals": {stage: {metric: [low, high]}}, "ranks": {stage: {...}}, "rounds": {stage:
        [...]}, "by_tag": {tag: {value: {"queries", "methods", "intervals"}}}, "counts", "failures":
        {query id: reason}}. Values are fractions in [0, 1] over all queries that have a ground
        truth; a query without ranking is a miss. The tag "aspect" has CIRCO's semantic aspects.
    """
    found: dict[str, dict[str, Any]] = {}
    tagged: dict[str, dict[str, Any]] = {tag: {} for tag in _tags_worth_showing(queries)}
    has_subsets = any(rankings.subsets.values())
    for stage in stages_of(rankings.gallery.values()):
        ids = _ids(rankings.gallery, stage, image_id)
        subsets = _ids(rankings.subsets, stage, image_id) if has_subsets else None
        found[stage] = evaluate(
            ids, queries, benchmark.protocol, subsets, seed=knobs.seed, resamples=resamples
        )
        for tag, values in tagged.items():
            of_tag = by_tag(
                ids, queries, benchmark.protocol, tag, subsets, seed=knobs.seed, resamples=resamples
            )
            for value, result in of_tag.items():
                entry = values.setdefault(
                    value, {"queries": result["queries"], "methods": {}, "intervals": {}}
                )
                entry["methods"][stage] = result["metrics"]
                entry["intervals"][stage] = result["intervals"]
    return {
        "final_stage": final_stage(knobs),
        "protocol": benchmark.protocol.describe(),
        "deviations": deviations(benchmark, knobs),
        "methods": {stage: result["metrics"] for stage, result in found.items()},
        "intervals": {stage: result["intervals"] for stage, result in found.items()},
        "ranks": {stage: result["rank"] for stage, result in found.items()},
        "rounds": {stage: result["rounds"] for stage, result in found.items() if result["rounds"]},
        "by_tag": tagged,
        "counts": count(queries, states),
        "failures": {
            query.query_id: state.reason
            for query in queries
            if (state := states.get(query.query_id)) is not None and state.status == "failed"
        },
    }


def deviations(benchmark: Benchmark, knobs: Knobs) -> list[str]:
    """Where the run is not what the data set's official protocol and files make of it, in words."""
    found = list(benchmark.protocol.deviations)
    if knobs.exclude_reference not in (None, benchmark.protocol.exclude_reference):
        found.append(f"exclude_reference is {str(knobs.exclude_reference).lower()}")
    return found


def count(queries: Sequence[Query], states: States) -> dict[str, int]:
    """How many queries there are, failed, fell back, and how many candidates failed."""
    counts = dict.fromkeys(
        (
            "queries", "answered", "failed", "missing", "with_fallback", "fallbacks",
            "without_questions", "candidate_failures", "without_ground_truth",
        ),
        0,
    )  # fmt: skip
    for query in queries:
        counts["queries"] += 1
        counts["without_ground_truth"] += not query.target_ids
        state = states.get(query.query_id)
        if state is None:
            counts["missing"] += 1
            continue
        counts["answered"] += state.status == "ok"
        counts["failed"] += state.status == "failed"
        counts["with_fallback"] += bool(state.fallbacks)
        counts["fallbacks"] += len(state.fallbacks)
        counts["without_questions"] += state.status == "ok" and not state.propositions
        counts["candidate_failures"] += len(state.item_failures)
    return counts


def stages_of(rankings: Iterable[Rankings]) -> list[str]:
    """Baselines first, then single lists, then the stages in the order they run."""
    found = dict.fromkeys(stage for ranking in rankings for stage in ranking)
    order = {stage: place for place, stage in enumerate(TITLES)}
    return sorted(
        found,
        key=lambda stage: (
            0 if stage in BASELINES else 2 if stage in order else 1,
            order.get(stage, 0),
        ),
    )


def _ids(
    rankings: Mapping[str, Rankings], stage: str, image_id: ImageId
) -> dict[str, list[str] | None]:
    """query id -> image ids of one stage; None where the query has no ranking of it."""
    return {
        query_id: [image_id(row) for row in by_stage[stage]] if stage in by_stage else None
        for query_id, by_stage in rankings.items()
    }


def _tags_worth_showing(queries: Sequence[Query]) -> list[str]:
    values: dict[str, set[str]] = {}
    for query in queries:
        for tag, value in query.tags.items():
            values.setdefault(tag, set()).add(value)
        if query.aspects:
            values.setdefault("aspect", set()).update(query.aspects)
    return sorted(tag for tag, found in values.items() if 1 < len(found) <= _MOST_TAG_VALUES)
