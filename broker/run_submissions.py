"""The files for the official servers that a run writes: every stage, every metric of the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from broker.evaluation import ImageId, RunRankings
from broker.results_table import TITLES
from broker.stages import COARSE, COMPARED, VERIFIED
from shared.datasets import Benchmark, Query
from shared.errors import PermanentError
from shared.submission import Submission, build_submission, metrics_of

_NAMED = 20


@dataclass(frozen=True)
class RunSubmissions:
    """What goes into the folder submissions/, and what is to be said about it.

    Attributes:
        files: file name -> JSON content.
        summary: for metrics.json: the files, the queries whose place was filled, notes in words.
    """

    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)


def submissions_of(
    benchmark: Benchmark,
    queries: Sequence[Query],
    rankings: RunRankings,
    gallery: Sequence[str],
    image_id: ImageId,
) -> RunSubmissions:
    """A checked file per stage that ran and metric of the data set's server.

    A run of only some of the queries has none, as the servers take whole splits. The servers also
    refuse a file that lacks a query: the first images of the gallery stand in for one that failed,
    and it is named in the summary.

    Args:
        gallery: the ids of all searchable images, in the data set's order.
    """
    server = benchmark.protocol.submission
    if not server:
        return RunSubmissions()
    if len(queries) < len(benchmark.queries):
        some = f"{len(queries)} of {len(benchmark.queries)} queries"
        return RunSubmissions(summary={"files": [], "notes": [f"no submission: only {some}"]})
    made: dict[str, Submission] = {}
    notes: list[str] = []
    for stage in _stages_that_ran(rankings):
        for metric in metrics_of(server):
            of_metric = rankings.subsets if metric == "recall_subset" else rankings.gallery
            ids = {
                query_id: [image_id(row) for row in by_stage[stage][:50]]
                for query_id, by_stage in of_metric.items()
                if stage in by_stage
            }
            try:
                submission = build_submission(benchmark, metric, ids, gallery)
            except PermanentError as error:
                notes.append(f"no submission {stage}_{metric}: {error}")
                continue
            made[f"{stage}_{metric}.json"] = submission
    filled = {name: submission.filled for name, submission in made.items() if submission.filled}
    completed = {name: len(made[name].completed) for name in made if made[name].completed}
    for name, query_ids in filled.items():
        named = ", ".join(query_ids[:_NAMED]) + (", ..." if len(query_ids) > _NAMED else "")
        notes.append(
            f"submissions/{name}: {len(query_ids)} failed queries are filled with the first"
            f" images of the gallery, as the server takes no gaps: {named}"
        )
    for name, how_many in completed.items():
        notes.append(
            f"submissions/{name}: {how_many} rankings were too short and end with the first"
            " images of the gallery that they lack"
        )
    if made:
        notes.append(f"submissions: {', '.join(made)}")
    return RunSubmissions(
        {name: submission.content for name, submission in made.items()},
        {"files": list(made), "filled": filled, "completed": completed, "notes": notes},
    )


def _stages_that_ran(rankings: RunRankings) -> list[str]:
    ran = {stage for by_stage in rankings.gallery.values() for stage in by_stage}
    return [stage for stage in TITLES if stage in ran and stage in (COARSE, VERIFIED, COMPARED)]
