"""What a finished run's report says: stages, gains, ranks, the hardest queries, the failures."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from broker.evaluation import rank_run
from broker.paired_metrics import PairedMetric, paired_metrics
from broker.query_state import QueryState
from broker.recorded_run import RecordedRun, Surroundings, open_recorded_run, open_surroundings
from broker.results_table import TITLES
from broker.run_costs import read_costs
from broker.run_store import METRICS, STATUS, read_json
from broker.stages import Rankings
from shared.datasets import Protocol, Query
from shared.errors import PermanentError
from shared.galleries import Gallery
from shared.knobs import Knobs, to_mapping
from shared.published_figures import PublishedFigures, published_figures
from shared.settings import Settings

CURVE_DEPTH = 100
"""Recall curves reach so deep."""
QUERIES_SHOWN = 12
_SOURCES = {
    "v1": "imagined from text",
    "v2": "imagined from pixels",
    "aug": "both imaginations",
    "text": "modification text",
}
HITS_SHOWN = 5


class StageReport(msgspec.Struct, frozen=True, kw_only=True):
    """One ranking of the run, over all queries with a ground truth.

    Attributes:
        stage, title: its name in the run, and in words.
        recall_curve: Recall@1, Recall@2, ... up to `CURVE_DEPTH`, or the deepest list.
        median_rank: of the target; None when more than half of the targets were not ranked.
    """

    stage: str
    title: str
    metrics: dict[str, float]
    intervals: dict[str, list[float]]
    recall_curve: list[float]
    median_rank: float | None


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """What one stage adds to the one before it, metric by metric."""

    before: str
    after: str
    metrics: dict[str, PairedMetric]


class QueryReport(msgspec.Struct, frozen=True, kw_only=True):
    """One query as the report shows it.

    Attributes:
        ranks: stage -> rank of the target that recall looks at; None = not ranked.
        hits: the best images of the last stage.
        captions: the imagined target, C_t and then C_v.
        propositions: (question, the answer expected of the target).
        reason: why it failed; empty = it did not.
    """

    query_id: str
    modification_text: str
    reference_id: str | None
    target_ids: tuple[str, ...]
    ranks: dict[str, int | None]
    hits: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    propositions: tuple[tuple[str, bool], ...] = ()
    reason: str = ""


class RankChange(msgspec.Struct, frozen=True, kw_only=True):
    """Where the target stood after fusion and where it stands at the end."""

    query_id: str
    before: int | None
    after: int | None


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the report of a finished run shows.

    Attributes:
        queries, scored: asked, and those of them with a published ground truth.
        queries_in_data_set: asked, or left out by the run's limit.
        models: agent -> what it served.
        knobs: those that differ from the defaults.
        costs: agent -> name of a cost -> how much, as in costs.json; empty where none was told.
        stages: baselines, single lists, then the stages in their order.
        pipeline: the names of the stages that build on each other, in their order.
        rank_changes: of each scored query, from the first to the last of `pipeline`.
        hardest: the worst-ranked targets of the last stage, worst first.
        losses: targets that the later stages pushed down furthest, worst first.
        failures: queries without an answer.
        published: figures of the paper for this data set.
    """

    run: str
    name: str
    dataset: str
    split: str
    submitted_at: str
    gallery: str
    protocol: str
    deviations: list[str]
    queries: int
    scored: int
    queries_in_data_set: int
    counts: dict[str, int]
    models: dict[str, str]
    knobs: dict[str, Any]
    costs: dict[str, dict[str, float]]
    commit: str
    stages: list[StageReport]
    pipeline: list[str]
    gains: list[Gain]
    rank_changes: list[RankChange]
    hardest: list[QueryReport]
    losses: list[QueryReport]
    failures: list[QueryReport]
    by_tag: dict[str, dict[str, Any]]
    published: tuple[PublishedFigures, ...]


def report_run(settings: Settings, run: str) -> RunReport:
    """The report of a finished run.

    Args:
        run: id or folder.
    Raises: ConfigurationError: no such run, or it is not finished. DatasetError: the data set or
        gallery is gone. PermanentError: its files are damaged.
    """
    recorded = open_recorded_run(settings.runs_folder, run)
    around = open_surroundings(settings, recorded)
    evaluation = read_json(settings.runs_folder, recorded.run_id, METRICS)
    if evaluation is None:
        raise PermanentError(f"run {recorded.run_id} has no {METRICS}")
    status = read_json(settings.runs_folder, recorded.run_id, STATUS) or {}
    costs = read_costs(settings.runs_folder, recorded.run_id)
    return _report(recorded, around, evaluation, costs, str(status.get("submitted_at", "")))


def target_ranks(
    query: Query, protocol: Protocol, rankings: Rankings, rows: Mapping[str, int | None]
) -> dict[str, int | None]:
    """Stage -> 1-based rank of the target that recall looks at; None = the stage has it nowhere.

    Args:
        rows: target id -> its row in the gallery.
    """
    targets = query.target_ids[:1] if protocol.recall_targets == "first" else query.target_ids
    wanted = {row for target in targets if (row := rows.get(target)) is not None}
    return {
        stage: next((rank for rank, row in enumerate(ranked, start=1) if row in wanted), None)
        for stage, ranked in rankings.items()
    }


def _list_title(name: str) -> str:
    """A single list in words: "v1.hybrid" -> "list v1: imagined from text"."""
    source, _, kind = name.partition(".")
    told = _SOURCES.get(source)
    if told is None:
        return name
    return f"list {source}{f', {kind}' if kind != 'hybrid' else ''}: {told}"


def _report(
    recorded: RecordedRun,
    around: Surroundings,
    evaluation: Mapping[str, Any],
    costs: Mapping[str, dict[str, float]],
    submitted_at: str,
) -> RunReport:
    asked, manifest = around.asked, recorded.manifest
    queries, protocol, gallery = asked.queries, asked.benchmark.protocol, asked.gallery
    rankings = rank_run(recorded.states, recorded.knobs).gallery
    ranks = _all_ranks(queries, protocol, rankings, gallery)
    pipeline = [stage for stage in evaluation["methods"] if stage in ("coarse", *_later(recorded))]
    shown = _Shown(recorded.states, rankings, ranks, gallery, evaluation["final_stage"])
    scored = [query for query in queries if query.target_ids]
    answered = [query for query in scored if query.query_id not in evaluation["failures"]]
    last, first = (pipeline[-1], pipeline[0]) if pipeline else ("", "")  # no query has an answer
    deep = len(gallery) + 1
    hardest = sorted(answered, key=lambda query: -(ranks[query.query_id].get(last) or deep))
    fell = sorted(answered, key=lambda query: _fall(ranks[query.query_id], first, last, deep))
    return RunReport(
        run=recorded.run_id,
        name=recorded.request.name,
        dataset=asked.benchmark.name,
        split=asked.benchmark.split,
        submitted_at=submitted_at,
        gallery=gallery.key,
        protocol=evaluation["protocol"],
        deviations=list(evaluation["deviations"]),
        queries=len(queries),
        scored=len(scored),
        queries_in_data_set=len(asked.benchmark.queries),
        counts=evaluation["counts"],
        models=_models(manifest),
        knobs=_changed_knobs(recorded.knobs),
        costs=dict(costs),
        commit=manifest.get("commit", ""),
        stages=[
            StageReport(
                stage=stage,
                title=TITLES.get(stage) or _list_title(stage),
                metrics=metrics,
                intervals=evaluation["intervals"].get(stage, {}),
                recall_curve=_recall_curve(ranks, scored, stage),
                median_rank=evaluation["ranks"][stage]["median"],
            )
            for stage, metrics in evaluation["methods"].items()
        ],
        pipeline=pipeline,
        gains=_gains(pipeline, scored, protocol, rankings, gallery),
        rank_changes=[
            RankChange(
                query_id=query.query_id,
                before=ranks[query.query_id].get(first),
                after=ranks[query.query_id].get(last),
            )
            for query in scored
        ],
        hardest=[
            shown.query(query)
            for query in hardest[:QUERIES_SHOWN]
            if (ranks[query.query_id].get(last) or deep) > 1
        ],
        losses=[
            shown.query(query)
            for query in fell[:QUERIES_SHOWN]
            if _fall(ranks[query.query_id], first, last, deep) < 0
        ],
        failures=[
            shown.query(query, evaluation["failures"][query.query_id])
            for query in queries
            if query.query_id in evaluation["failures"]
        ],
        by_tag=evaluation["by_tag"],
        published=published_figures(asked.benchmark.name),
    )


class _Shown(msgspec.Struct, frozen=True):
    """What is looked up to show one query."""

    states: Mapping[str, QueryState]
    rankings: Mapping[str, Rankings]
    ranks: Mapping[str, Mapping[str, int | None]]
    gallery: Gallery
    last: str

    def query(self, query: Query, reason: str = "") -> QueryReport:
        state = self.states.get(query.query_id)
        rows = self.rankings.get(query.query_id, {}).get(self.last, ())[:HITS_SHOWN]
        captions = state.text.captions if state is not None and state.text is not None else ()
        if state is not None and state.image is not None:
            captions = (*captions, state.image.caption)
        return QueryReport(
            query_id=query.query_id,
            modification_text=query.modification_text,
            reference_id=query.reference_id,
            target_ids=query.target_ids,
            ranks=dict(self.ranks.get(query.query_id, {})),
            hits=tuple(self.gallery.image_id(row) for row in rows),
            captions=tuple(caption for caption in captions if caption),
            propositions=tuple(
                (one.question, one.expected) for one in (state.propositions if state else ())
            ),
            reason=reason,
        )


def _later(recorded: RecordedRun) -> list[str]:
    names = {"verify": "verified", "compare": "compared"}
    return [names[stage] for stage in recorded.knobs.stages if stage in names]


def _all_ranks(
    queries: Sequence[Query],
    protocol: Protocol,
    rankings: Mapping[str, Rankings],
    gallery: Gallery,
) -> dict[str, dict[str, int | None]]:
    wanted = {target for query in queries for target in query.target_ids}
    rows: dict[str, int | None] = {
        image_id: row for row, image_id in enumerate(gallery.image_ids) if image_id in wanted
    }
    return {
        query.query_id: target_ranks(query, protocol, rankings.get(query.query_id, {}), rows)
        for query in queries
    }


def _fall(ranks: Mapping[str, int | None], first: str, last: str, deep: int) -> float:
    """How far a target was pushed down, as a ratio: 1 -> 5 is further than 90 -> 100."""
    before, after = ranks.get(first) or deep, ranks.get(last) or deep
    return 1 - after / before


def _recall_curve(
    ranks: Mapping[str, Mapping[str, int | None]], scored: Sequence[Query], stage: str
) -> list[float]:
    found = [ranks[query.query_id].get(stage) for query in scored]
    at = [0] * CURVE_DEPTH
    for rank in found:
        if rank is not None and rank <= CURVE_DEPTH:
            at[rank - 1] += 1
    curve, hits = [], 0
    for count in at:
        hits += count
        curve.append(hits / len(scored) if scored else 0.0)
    return curve


def _gains(
    pipeline: Sequence[str],
    scored: Sequence[Query],
    protocol: Protocol,
    rankings: Mapping[str, Rankings],
    gallery: Gallery,
) -> list[Gain]:
    ids = gallery.image_ids
    deepest = max((*protocol.recall_ks, *protocol.map_ks, *protocol.hits_ks), default=0)

    def ranked(stage: str) -> dict[str, list[str] | None]:
        return {
            query_id: [ids[row] for row in by_stage[stage][:deepest]] if stage in by_stage else None
            for query_id, by_stage in rankings.items()
        }

    gains = []
    for before, after in itertools.pairwise(pipeline):
        metrics = paired_metrics(scored, protocol, ranked(before), ranked(after))
        gains.append(Gain(before=before, after=after, metrics=metrics))
    return gains


def _changed_knobs(knobs: Knobs) -> dict[str, Any]:
    defaults = to_mapping(Knobs())
    return {name: value for name, value in to_mapping(knobs).items() if value != defaults[name]}


def _models(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Agent -> its checkpoint, revision, engine, and the beginning of the weights' digest."""
    shown = {}
    for agent, identity in manifest.get("agents", {}).items():
        revision, digest = identity.get("revision", ""), identity.get("digest", "")[:12]
        parts = (
            identity.get("checkpoint", "") + (f"@{revision}" if revision else ""),
            identity.get("backend", ""),
            digest and f"weights {digest}",
        )
        shown[agent] = ", ".join(part for part in parts if part)
    return shown
