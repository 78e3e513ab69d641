"""Metadata of images, and the rows that meet a filter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from shared.errors import ConfigurationError, DatasetError
from shared.galleries import Gallery, write_gallery
from shared.metadata import (
    METADATA,
    MOST_VALUES,
    FieldSummary,
    describe_fields,
    matching_rows,
    write_metadata,
)


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    """Six images, the last one a reference only, with a shop's fields."""
    images = []
    for row in range(6):
        path = tmp_path / f"{row}.png"
        Image.new("RGB", (4, 4), (row, 0, 0)).save(path)
        images.append((f"image-{row}", path))
    gallery = write_gallery(tmp_path / "galleries", images, searchable=5)
    fields: dict[str, dict[str, Any]] = {
        f"image-{row}": {"price": 10 * row, "brand": "ab"[row % 2], "new": row > 3}
        for row in range(6)
    }
    del fields["image-2"]
    write_metadata(gallery, fields)
    return gallery


@pytest.mark.parametrize(
    ("wanted", "rows"),
    [
        ({}, (0, 1, 2, 3, 4)),
        ({"brand": "b"}, (1, 3)),
        ({"brand": ["a", "b"]}, (0, 1, 3, 4)),
        ({"price": {"gte": 10, "lt": 40}}, (1, 3)),
        ({"price": {"gt": 10}, "brand": "a"}, (4,)),
        ({"new": True}, (4,)),
        ({"new": 1}, ()),
        ({"brand": {"gt": 1}}, ()),
    ],
)
def test_rows_meet_every_condition(
    gallery: Gallery, wanted: dict[str, Any], rows: tuple[int, ...]
) -> None:
    assert matching_rows(gallery, wanted) == rows


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"colour": "red"}, "no image .* has the field 'colour'; known are: brand, new, price"),
        ({"price": {"above": 3}}, "the filter of 'price'"),
        ({"price": None}, "the filter of 'price'"),
        ({"price": [[1]]}, "the filter of 'price'"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_refused(
    gallery: Gallery, wanted: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        matching_rows(gallery, wanted)


def test_metadata_of_unknown_images_or_of_nested_values_leave_the_old_in_place(
    gallery: Gallery,
) -> None:
    before = (gallery.folder / METADATA).read_bytes()
    with pytest.raises(DatasetError, match="image-9"):
        write_metadata(gallery, {"image-9": {"price": 1}})
    with pytest.raises(DatasetError, match="the metadata of image 'image-1'"):
        write_metadata(gallery, {"image-1": {"price": {"euro": 1}}})  # type: ignore[dict-item]
    assert (gallery.folder / METADATA).read_bytes() == before


def test_a_gallery_without_metadata_says_so(gallery: Gallery) -> None:
    (gallery.folder / METADATA).unlink()
    with pytest.raises(DatasetError, match="has no metadata to filter by"):
        matching_rows(gallery, {"brand": "a"})


def test_fields_are_described_as_searchable_images_have_them(gallery: Gallery) -> None:
    assert describe_fields(gallery) == [
        FieldSummary(name="brand", images=4, values=("a", "b")),
        FieldSummary(name="new", images=4, values=(False, True)),
        FieldSummary(name="price", images=4, low=0, high=40),
    ]


def test_a_field_of_many_kinds_is_described_whole_and_many_values_are_cut(
    tmp_path: Path,
) -> None:
    images = []
    for row in range(MOST_VALUES + 3):
        path = tmp_path / f"{row}.png"
        Image.new("RGB", (4, 4), (row, 0, 0)).save(path)
        images.append((f"{row}", path))
    gallery = write_gallery(tmp_path / "galleries", images)
    assert describe_fields(gallery) == []
    fields: dict[str, dict[str, Any]] = {str(row): {"tag": f"t{row:02d}"} for row in range(50)}
    fields |= {"50": {"tag": True}, "51": {"tag": 7}, "52": {"tag": -1.5}}
    write_metadata(gallery, fields)
    (tag,) = describe_fields(gallery)
    assert tag.values == (True, *(f"t{row:02d}" for row in range(49)))
    assert (tag.images, tag.more_values, tag.low, tag.high) == (53, True, -1.5, 7)
    (gallery.folder / METADATA).write_text("{}\n")
    with pytest.raises(DatasetError, match="has 1 lines, the gallery 53 rows"):
        describe_fields(gallery)
