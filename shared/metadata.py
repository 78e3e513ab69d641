"""What users know of their images (price, brand, ...) and filters over it, evaluated by row.

`metadata.jsonl` lies beside a gallery's listing: line i holds the fields of row i, an object of
strings, numbers and booleans; an image of which nothing is known has `{}`. It may be replaced at
any time: embeddings do not depend on it, and neither does the gallery's key.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from shared import atomic_files
from shared.errors import ConfigurationError, DatasetError
from shared.galleries import Gallery
from shared.json_lines import JsonLines

METADATA = "metadata.jsonl"

Value = str | int | float | bool
Fields = dict[str, Value]


class _Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of a number; None = open."""

    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None

    def holds(self, value: Value) -> bool:
        if isinstance(value, str | bool):
            return False
        return (
            (self.gt is None or value > self.gt)
            and (self.gte is None or value >= self.gte)
            and (self.lt is None or value < self.lt)
            and (self.lte is None or value <= self.lte)
        )


Condition = Value | list[Value] | _Range

MOST_VALUES = 50
"""So many values of a field are named."""


class FieldSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One field of a gallery's images: what a filter can ask of it.

    Attributes:
        images: how many searchable images have it.
        values: those that are no numbers, ascending, false before true before text; at most
            `MOST_VALUES`.
        more_values: whether there are further ones.
        low, high: the smallest and the largest of its numbers; None = it has none.
    """

    name: str
    images: int
    values: tuple[str | bool, ...] = ()
    more_values: bool = False
    low: float | None = None
    high: float | None = None


def write_metadata(gallery: Gallery, fields: Mapping[str, Fields]) -> None:
    """Put the fields of a gallery's images, by image id, in place of those there are.

    Raises: DatasetError: an image that isn't in the gallery, or a field that is no plain value.
    """
    for image_id, of_image in fields.items():
        gallery.row_of(image_id)
        try:
            msgspec.convert(of_image, Fields, strict=True)
        except msgspec.ValidationError as error:
            raise DatasetError(f"the metadata of image {image_id!r}: {error}") from error
    lines = (msgspec.json.encode(fields.get(image_id, {})) for image_id in gallery.image_ids)
    atomic_files.write_bytes(gallery.folder / METADATA, b"\n".join([*lines, b""]))


def read_metadata(gallery: Gallery) -> dict[str, Fields]:
    """The fields of all images that have some, by image id; {} when nothing is known of any.

    Raises: DatasetError: the file is damaged.
    """
    path = gallery.folder / METADATA
    if not path.exists():
        return {}
    lines = _lines(gallery, path)
    return {
        entry.image_id: fields
        for entry, fields in zip(gallery.listing, lines, strict=True)
        if fields
    }


def matching_rows(gallery: Gallery, wanted: Mapping[str, Any]) -> tuple[int, ...]:
    """The searchable rows whose fields meet every condition, ascending.

    A condition is a value ("brand": "acme"), a list of which one has to be met ("size": ["S", "M"])
    or bounds ("price": {"gte": 10, "lt": 50}). An image without the field meets none.

    Raises:
        ConfigurationError: a condition is none of these, or no image has the field.
        DatasetError: the gallery has no metadata, or its file is damaged.
    """
    conditions = {name: _condition(name, value) for name, value in wanted.items()}
    if not (gallery.folder / METADATA).exists():
        raise DatasetError(
            f"gallery {gallery.key} has no metadata to filter by: no {gallery.folder / METADATA}"
        )
    known: set[str] = set()
    rows = []
    for row, fields in enumerate(_searchable(gallery)):
        known.update(fields)
        if all(name in fields and _meets(fields[name], one) for name, one in conditions.items()):
            rows.append(row)
    unknown = sorted(conditions.keys() - known)
    if unknown:
        raise ConfigurationError(
            f"no image of gallery {gallery.key} has the field {unknown[0]!r}; known are:"
            f" {', '.join(sorted(known)) or 'none'}"
        )
    return tuple(rows)


def _lines(gallery: Gallery, path: Path) -> JsonLines[Fields]:
    lines = JsonLines(path, Fields)
    if len(lines) != len(gallery):
        raise DatasetError(f"{path} has {len(lines)} lines, the gallery {len(gallery)} rows")
    return lines


def describe_fields(gallery: Gallery) -> list[FieldSummary]:
    """The fields that searchable images have, by name; [] where the gallery has no metadata.

    Raises: DatasetError: its file is damaged.
    """
    if not (gallery.folder / METADATA).exists():
        return []
    found: dict[str, list[Value]] = {}
    for fields in _searchable(gallery):
        for name, value in fields.items():
            found.setdefault(name, []).append(value)
    return [_summary(name, found[name]) for name in sorted(found)]


def _summary(name: str, values: list[Value]) -> FieldSummary:
    numbers = [float(value) for value in values if not isinstance(value, str | bool)]
    named = {(isinstance(value, str), value) for value in values if isinstance(value, str | bool)}
    return FieldSummary(
        name=name,
        images=len(values),
        values=tuple(value for _, value in sorted(named)[:MOST_VALUES]),
        more_values=len(named) > MOST_VALUES,
        low=min(numbers, default=None),
        high=max(numbers, default=None),
    )


def _searchable(gallery: Gallery) -> Iterator[Fields]:
    """The fields of each searchable row. Raises: DatasetError: the file is damaged."""
    path = gallery.folder / METADATA
    return itertools.islice(_lines(gallery, path), gallery.searchable)


def _condition(name: str, value: Any) -> Condition:
    try:
        condition: Condition = msgspec.convert(value, Condition)
    except msgspec.ValidationError as error:
        raise ConfigurationError(
            f"the filter of {name!r} is {value!r}: use a value, a list of values, or bounds"
            ' such as {"gte": 10, "lt": 50}'
        ) from error
    return condition


def _meets(value: Value, condition: Condition) -> bool:
    if isinstance(condition, _Range):
        return condition.holds(value)
    if isinstance(condition, list):
        return any(_same(value, one) for one in condition)
    return _same(value, condition)


def _same(value: Value, other: Value) -> bool:
    """JSON's equality: true is not 1."""
    return isinstance(value, bool) == isinstance(other, bool) and value == other
