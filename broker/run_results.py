"""What a run found, written into its folder: predictions, metrics, table, submissions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from broker.evaluation import evaluate_run, predictions, rank_run
from broker.results_table import table
from broker.run_store import RunStore
from broker.run_submissions import submissions_of
from shared.datasets import Benchmark, Query
from shared.galleries import Gallery
from shared.knobs import Knobs


@dataclass(frozen=True)
class RunQuestions:
    """What a run asks and how its answers are judged."""

    benchmark: Benchmark
    queries: Sequence[Query]
    gallery: Gallery
    knobs: Knobs


def write_results(store: RunStore, asked: RunQuestions, partial: bool = False) -> str:
    """Write the results of all queries, or, `partial`, of those that are answered.

    They follow from the recorded states alone: a replay writes them as the live run does.

    Returns: the table of metrics.
    """
    states, queries, image_ids = store.states, asked.queries, asked.gallery.image_ids
    title = f"{store.run_id}: {asked.benchmark.name} {asked.benchmark.split}"
    if partial:
        queries = [query for query in asked.queries if query.query_id in states]
        title += f" (cancelled after {len(queries)} of {len(asked.queries)} queries)"
    rankings = rank_run(states, asked.knobs)
    evaluation = evaluate_run(
        asked.benchmark, queries, states, rankings, asked.knobs, image_ids.__getitem__
    )
    submissions = submissions_of(
        asked.benchmark,
        queries,
        rankings,
        image_ids[: asked.gallery.searchable],
        image_ids.__getitem__,
    )
    evaluation["submissions"] = submissions.summary
    shown = table(title, evaluation)
    lines = predictions(queries, states, rankings, asked.knobs, image_ids.__getitem__)
    store.finish(lines, evaluation, shown, partial, submissions.files)
    return shown
