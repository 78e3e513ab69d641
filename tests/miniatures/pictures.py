"""Rendered images of the miniatures, and what a miniature says of itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

SIZE = 48
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "teal", "brown")
SHAPES = ("ellipse", "rectangle", "line")


@dataclass(frozen=True)
class Miniature:
    """What was written, for tests to compare with.

    Attributes:
        dataset: its name for `load_dataset`.
        queries: split -> how many there are.
        gallery: split -> how many images are searched.
        broken, missing: split -> ids of images that are no images, or not there.
        failing: split -> ids of queries that cannot be answered (no text, a broken reference).
    """

    dataset: str
    queries: Mapping[str, int]
    gallery: Mapping[str, int]
    broken: Mapping[str, str]
    missing: Mapping[str, str]
    failing: Mapping[str, frozenset[str]]


def draw(path: Path, number: int) -> None:
    """A picture of its own for every number, in the format of the file's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (SIZE, SIZE), (250 - 3 * number % 90, 245, 250 - number))
    pen = ImageDraw.Draw(image)
    left, top = 4 + 5 * number % 17, 4 + 3 * number % 19
    box = (left, top, left + 22, top + 18)
    colour = COLOURS[number % len(COLOURS)]
    shape = SHAPES[number % len(SHAPES)]
    if shape == "line":
        pen.line(box, fill=colour, width=5)
    else:
        getattr(pen, shape)(box, fill=colour, outline="black")
    image.save(path)


def draw_all(files: Iterable[Path], broken: Path, missing: Path) -> None:
    """A picture at every path but two: `broken` is no image, `missing` is not there."""
    for number, path in enumerate(files):
        if path == broken:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"\xff\xd8\xff this was a photograph once")
        elif path != missing:
            draw(path, number)


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
