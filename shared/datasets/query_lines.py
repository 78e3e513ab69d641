"""Queries in a JSON Lines file: the form of the demo benchmark and of users' own folders."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from shared.datasets.benchmark import Query
from shared.errors import DatasetError

Record = TypeVar("Record")


class QueryLine(msgspec.Struct, frozen=True):
    """One line; other fields are ignored. `reference` may also be called `reference_id`."""

    query_id: str
    modification_text: str
    reference: str | None = None
    reference_id: str | None = None
    target_ids: tuple[str, ...] = ()
    subset_ids: tuple[str, ...] = ()
    tags: dict[str, str] = {}
    level: int | None = None
    n_groups: int | None = None
    kinds: tuple[str, ...] | None = None


def read_lines(path: Path, kind: type[Record]) -> Iterator[tuple[int, Record]]:
    """(1-based line number, record) of every line that is not blank.

    Raises: DatasetError: no such file, or a line that is not such a record.
    """
    decoder = msgspec.json.Decoder(kind)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, decoder.decode(line)
        except msgspec.DecodeError as error:
            raise DatasetError(f"{path}, line {number}: {error}") from error


def read_queries(path: Path, image_ids: Collection[str]) -> tuple[Query, ...]:
    """The queries of a file, in its order.

    Args:
        image_ids: the images there are; every image a query names must be one of them.
    Raises: DatasetError: names the line and what is wrong with it.
    """
    known = image_ids if isinstance(image_ids, (set, frozenset, dict)) else set(image_ids)
    queries: dict[str, Query] = {}
    for number, line in read_lines(path, QueryLine):
        reference = line.reference if line.reference_id is None else line.reference_id
        for image_id in (*((reference,) if reference else ()), *line.target_ids, *line.subset_ids):
            if image_id not in known:
                raise DatasetError(
                    f"{path}, line {number}: query {line.query_id!r} names image {image_id!r},"
                    " which is not in the gallery"
                )
        if line.query_id in queries:
            raise DatasetError(f"{path}, line {number}: query {line.query_id!r} stands there twice")
        queries[line.query_id] = Query(
            query_id=line.query_id,
            reference_id=reference or None,
            modification_text=line.modification_text,
            target_ids=line.target_ids,
            subset_ids=line.subset_ids,
            tags=_tags(line),
        )
    return tuple(queries.values())


def _tags(line: QueryLine) -> dict[str, str]:
    described: dict[str, Any] = {
        "level": line.level,
        "n_groups": line.n_groups,
        "kinds": None if line.kinds is None else "+".join(line.kinds),
    }
    return {name: str(value) for name, value in described.items() if value is not None} | line.tags
