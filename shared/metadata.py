"""What users know of their images (price, brand, ...) and filters over it, evaluated by row.

`metadata.jsonl` lies beside a gallery's listing: line i holds the fields of row i, an object of
strings, numbers and booleans; an image of which nothing is known has `{}`. It may be replaced at
any time: embeddings do not depend on it, and neither does the gallery's key.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    path = gallery.folder / METADATA
    if not path.exists():
        raise DatasetError(f"gallery {gallery.key} has no metadata to filter by: no {path}")
    lines = _lines(gallery, path)
    known: set[str] = set()
    rows = []
    for row, fields in enumerate(lines):
        if row == gallery.searchable:
            break
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
