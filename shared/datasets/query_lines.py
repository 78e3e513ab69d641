"""Queries in a JSON Lines file: the form of the demo benchmark and of users' own folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from shared.datasets.annotation_files import read_json_lines
from shared.datasets.benchmark import Query
from shared.datasets.source import LocatedQuery
from shared.errors import DatasetError


class QueryLine(msgspec.Struct, frozen=True):
    """One line; other fields are ignored. `reference` may also be called `reference_id`.

    The rounds of a dialogue stand in their order, each with `dialogue_id` and `round` (from 0).
    """

    query_id: str
    modification_text: str
    reference: str | None = None
    reference_id: str | None = None
    target_ids: tuple[str, ...] = ()
    subset_ids: tuple[str, ...] = ()
    tags: dict[str, str] = {}
    aspects: tuple[str, ...] = ()
    dialogue_id: str = ""
    round: Annotated[int, msgspec.Meta(ge=0)] | None = None
    level: int | None = None
    n_groups: int | None = None
    kinds: tuple[str, ...] | None = None


def read_queries(path: Path) -> Iterator[LocatedQuery]:
    """The queries of a file, in its order.

    Raises: DatasetError: a malformed line, an id twice, a round without the round before it.
    """
    known: set[str] = set()
    rounds: dict[tuple[str, int], str] = {}
    for number, line in read_json_lines(path, QueryLine):
        where = f"{path}, line {number}"
        if line.query_id in known:
            raise DatasetError(f"{where}: query {line.query_id!r} stands there twice")
        known.add(line.query_id)
        yield LocatedQuery(where, _query(line, _previous(line, rounds, where)))


def _previous(line: QueryLine, rounds: dict[tuple[str, int], str], where: str) -> str:
    """The query of the round before; notes this one for the rounds to come."""
    if bool(line.dialogue_id) != (line.round is not None):
        raise DatasetError(f"{where}: a round of a dialogue needs both dialogue_id and round")
    if line.round is None:
        return ""
    before = line.dialogue_id, line.round - 1
    if line.round and before not in rounds:
        raise DatasetError(
            f"{where}: round {line.round} of dialogue {line.dialogue_id!r} comes without round"
            f" {line.round - 1} before it"
        )
    if (line.dialogue_id, line.round) in rounds:
        raise DatasetError(
            f"{where}: round {line.round} of dialogue {line.dialogue_id!r} stands there twice"
        )
    rounds[line.dialogue_id, line.round] = line.query_id
    return rounds.get(before, "")


def _query(line: QueryLine, previous_id: str) -> Query:
    reference = line.reference if line.reference_id is None else line.reference_id
    return Query(
        query_id=line.query_id,
        reference_id=reference or None,
        modification_text=line.modification_text,
        target_ids=line.target_ids,
        subset_ids=line.subset_ids,
        tags=_tags(line),
        aspects=line.aspects,
        dialogue_id=line.dialogue_id,
        round=line.round,
        previous_id=previous_id,
    )


def _tags(line: QueryLine) -> dict[str, str]:
    described: dict[str, Any] = {
        "level": line.level,
        "n_groups": line.n_groups,
        "kinds": None if line.kinds is None else "+".join(line.kinds),
    }
    return {name: str(value) for name, value in described.items() if value is not None} | line.tags
