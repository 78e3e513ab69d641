"""From the states of a run to its predictions, its metrics per stage, and the table of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from broker.query_state import QueryState
from broker.stages import Rankings, final_stage, rankings_by_stage, subset_rankings_by_stage
from shared.datasets import Benchmark, Query
from shared.knobs import BASELINES, Knobs
from shared.metrics import by_tag, evaluate

States = Mapping[str, QueryState]
ImageId = Callable[[int], str]

PREDICTION_DEPTH = 50
_MOST_TAG_VALUES = 20
_FAILURES_SHOWN = 3
_TITLES = {
    "image_only": "reference image only",
    "text_only": "modification text only",
    "image_text_sum": "image + text",
    "coarse": "XR: imagined and fused",
    "verified": "XR: verified",
    "compared": "XR: compared",
}


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
) -> dict[str, Any]:
    """Metrics of every stage, by tag, and counts.

    Returns: {"final_stage", "methods": {stage: {metric: value}}, "ranks": {stage: {...}},
        "by_tag": {tag: {value: {"queries": n, "methods": {stage: {metric: value}}}}},
        "counts": {...}, "failures": {query id: reason}}. Values are fractions in [0, 1] over all
        queries that have a ground truth; a query without ranking is a miss.
    """
    stages = _stages_of(rankings.gallery.values())
    has_subsets = any(rankings.subsets.values())
    methods: dict[str, dict[str, float]] = {}
    ranks: dict[str, Any] = {}
    tagged: dict[str, dict[str, Any]] = {tag: {} for tag in _tags_worth_showing(queries)}
    for stage in stages:
        ids = _ids(rankings.gallery, stage, image_id)
        subset_ids = _ids(rankings.subsets, stage, image_id) if has_subsets else None
        result = evaluate(ids, queries, benchmark.protocol, subset_ids)
        methods[stage] = result["metrics"]
        ranks[stage] = result["rank"]
        for tag, values in tagged.items():
            for value, of_value in by_tag(ids, queries, benchmark.protocol, tag).items():
                entry = values.setdefault(value, {"queries": of_value["queries"], "methods": {}})
                entry["methods"][stage] = of_value["metrics"]
    return {
        "final_stage": final_stage(knobs),
        "methods": methods,
        "ranks": ranks,
        "by_tag": tagged,
        "counts": count(queries, states),
        "failures": {
            query.query_id: state.reason
            for query in queries
            if (state := states.get(query.query_id)) is not None and state.status == "failed"
        },
    }


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


def table(name: str, evaluation: Mapping[str, Any]) -> str:
    """The metrics for reading: percent, one line per stage, then the final stage by tag."""
    methods: Mapping[str, Mapping[str, float]] = evaluation["methods"]
    lines = [name, ""]
    lines += _aligned([(_TITLES.get(stage, stage), values) for stage, values in methods.items()])
    last = evaluation["final_stage"]
    for tag, values in evaluation["by_tag"].items():
        lines += ["", f"{_TITLES.get(last, last)}, by {tag}"]
        lines += _aligned(
            [
                (f"{value or '(none)'} ({of_value['queries']})", of_value["methods"].get(last, {}))
                for value, of_value in values.items()
            ]
        )
    counts = ", ".join(f"{key.replace('_', ' ')} {n}" for key, n in evaluation["counts"].items())
    return "\n".join([*lines, "", counts, ""])


def _aligned(rows: Sequence[tuple[str, Mapping[str, float]]]) -> list[str]:
    names = list(dict.fromkeys(name for _, values in rows for name in values))
    if not names:
        return ["  (no ground truth)"]
    width = max(len(title) for title, _ in rows)
    columns = [max(len(name), 6) for name in names]
    head = " ".join(f"{name:>{size}}" for name, size in zip(names, columns, strict=True))
    lines = [f"  {'':<{width}}  {head}"]
    for title, values in rows:
        cells = (
            f"{100 * values[name]:>{size}.2f}" if name in values else " " * size
            for name, size in zip(names, columns, strict=True)
        )
        lines.append(f"  {title:<{width}}  {' '.join(cells)}")
    return lines


def _stages_of(rankings: Iterable[Rankings]) -> list[str]:
    """Baselines first, then single lists, then the stages in the order they run."""
    found = dict.fromkeys(stage for ranking in rankings for stage in ranking)
    order = {stage: place for place, stage in enumerate(_TITLES)}
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
    return sorted(tag for tag, found in values.items() if 1 < len(found) <= _MOST_TAG_VALUES)
