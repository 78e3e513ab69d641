"""From the rankings of a run's stage to a server's file, complete even where queries failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from shared.datasets.benchmark import Benchmark, Query
from shared.errors import PermanentError
from shared.submission import circo, cirr
from shared.submission.checking import Metric, SubmissionProblems, check_content


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """One file for a server.

    Attributes:
        content: what the file holds, as JSON values.
        filled: queries without any ranking, in the data set's order. The servers refuse a file that
            lacks a query, so the first images of the gallery stand in for them: a guess that says
            nothing, which is why the queries are named here and wherever the file is shown.
        completed: queries whose ranking was too short; the first images not in it follow it.
    """

    metric: Metric
    content: dict[str, Any]
    filled: tuple[str, ...] = ()
    completed: tuple[str, ...] = ()


def build_submission(
    benchmark: Benchmark,
    metric: Metric,
    rankings: Mapping[str, Sequence[str] | None],
    gallery: Sequence[str],
) -> Submission:
    """A file with all queries of the benchmark, checked by the server's rules.

    Args:
        rankings: query id -> image ids, best first; None or absent = the query failed.
        gallery: the ids of all searchable images, in the data set's order.
    Raises: SubmissionProblems: the server would refuse it. PermanentError: the data set has no
        server, or its image ids are not what the server knows.
    """
    filled, completed = [], []
    complete: dict[str, list[str]] = {}
    for query in benchmark.queries:
        allowed, length = _rules(query, metric, gallery)
        excluded = query.reference_id if benchmark.protocol.submission == "cirr" else None
        ranking = [i for i in rankings.get(query.query_id) or () if i != excluded]
        names = complete[query.query_id] = _complete(ranking[:length], allowed, excluded, length)
        if not ranking:
            filled.append(query.query_id)
        elif len(names) > len(ranking):
            completed.append(query.query_id)
    content = _content(benchmark, metric, complete)
    found = check_content(content, benchmark, gallery)
    if found:
        raise SubmissionProblems(found)
    return Submission(
        metric=metric, content=content, filled=tuple(filled), completed=tuple(completed)
    )


def _rules(query: Query, metric: Metric, gallery: Sequence[str]) -> tuple[Sequence[str], int]:
    """(what may be named, how many names)."""
    if metric == "map":
        return gallery, circo.LENGTH
    return cirr.candidates(query, metric, gallery), cirr.LENGTHS[metric]


def _content(
    benchmark: Benchmark, metric: Metric, rankings: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    if benchmark.protocol.submission == "circo" and metric == "map":
        return circo.content_of(rankings)
    if benchmark.protocol.submission == "cirr" and metric != "map":
        return cirr.content_of(rankings, metric)
    raise PermanentError(f"no server takes files of {metric} for {benchmark.name}")


def _complete(
    ranking: list[str], allowed: Iterable[str], excluded: str | None, length: int
) -> list[str]:
    """`ranking`, followed by the first allowed images that it lacks, up to `length`."""
    names = list(ranking)
    known = {*names, excluded}
    for image_id in allowed:
        if len(names) >= length:
            break
        if image_id not in known:
            names.append(image_id)
            known.add(image_id)
    return names
