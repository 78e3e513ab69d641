"""TREC files: a run and its relevance judgements, as ir_measures, ranx and trec_eval read them."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence

from shared.datasets.benchmark import Query

_SPECIAL = re.compile(r"[%\s]")

TARGET, RELEVANT = 2, 1
"""Grades: the first target where a protocol counts that one alone, and every other ground truth."""


def run_lines(rankings: Iterable[tuple[str, Sequence[str]]], tag: str) -> Iterator[str]:
    """ "query Q0 image rank score tag" for each place of each ranking.

    Readers order by score and break ties in their own ways, so scores are whole numbers that fall
    by one from place to place. Queries without a ranking have no line: readers count them as misses
    when the judgements hold them.

    Args:
        rankings: (query id, image ids, best first).
        tag: name of the run; blanks in it become dashes.
    """
    label = re.sub(r"\s+", "-", tag.strip()) or "run"
    for query_id, ranking in rankings:
        for place, image_id in enumerate(ranking):
            score = len(ranking) - place
            yield f"{escaped(query_id)} Q0 {escaped(image_id)} {place + 1} {score} {label}\n"


def qrels_lines(queries: Iterable[Query], first_target_alone: bool = False) -> Iterator[str]:
    """ "query 0 image grade" for every ground truth; queries without published ones have none.

    Args:
        first_target_alone: the first target has grade 2, as recall counts that one alone.
    """
    for query in queries:
        for place, image_id in enumerate(dict.fromkeys(query.target_ids)):
            grade = TARGET if first_target_alone and place == 0 else RELEVANT
            yield f"{escaped(query.query_id)} 0 {escaped(image_id)} {grade}\n"


def escaped(name: str) -> str:
    """An id without blanks: these and "%" are written as in a URL, e.g. "a b" as "a%20b"."""
    return _SPECIAL.sub(lambda found: urllib.parse.quote(found[0], safe=""), name)


def ranked(predictions: Iterable[Mapping[str, object]]) -> Iterator[tuple[str, list[str]]]:
    """(query id, ranking) of each line of a predictions.jsonl that has a ranking."""
    for line in predictions:
        ranking = line.get("ranking")
        if isinstance(ranking, list):
            yield str(line["query_id"]), [str(image_id) for image_id in ranking]
