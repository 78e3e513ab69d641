"""Miniatures of Flickr30K, MSCOCO and VisDial: texts that search for their image."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from tests.miniatures.pictures import COLOURS, SHAPES, Miniature, draw_all, write_json

ODD_NAMES = ("two words.jpg", "naïve — ☃.png", "many.dots.v1.2.JPG")


def captions_of(number: int) -> list[str]:
    colour, shape = COLOURS[number % len(COLOURS)], SHAPES[number % len(SHAPES)]
    return [f"A {colour} {shape}, it's number {number}.", f'They call it "{colour}"; a {shape}\\'][
        : 1 + number % 2
    ]


def write_flickr30k(root: Path) -> Miniature:
    """12 images, 18 captions."""
    names = [f"{1_000_000 + n}.jpg" for n in range(9)] + list(ODD_NAMES)
    home = root / "Flickr30K"
    rows = [
        {"raw": str(captions_of(n)), "sentids": str([n]), "split": "test", "filename": name,
         "img_id": str(n)}
        for n, name in enumerate(names)
    ]  # fmt: skip
    rows.append(rows[0] | {"split": "train", "filename": "not-of-this-split.jpg"})
    return _captioned("flickr30k", home, "test_1k_flickr.csv", home / "images", names, rows)


def write_mscoco(root: Path) -> Miniature:
    """12 images, 18 captions; in a folder of another name than Flickr30K's."""
    names = [f"COCO_val2014_{n:012d}.jpg" for n in range(12)]
    home = root / "MSCOCO"
    rows = [
        {"filename": name, "raw": str(captions_of(n)), "split": "test", "cocoid": str(n)}
        for n, name in enumerate(names)
    ]
    folder = home / "images_mscoco_2014_5k_test"
    return _captioned("mscoco", home, "test_5k_mscoco_2014.csv", folder, names, rows)


def _captioned(
    dataset: str,
    home: Path,
    table: str,
    images: Path,
    names: Sequence[str],
    rows: Sequence[dict[str, str]],
) -> Miniature:
    broken, missing = names[7], names[8]
    draw_all([images / name for name in names], images / broken, images / missing)
    with (home / table).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return Miniature(
        dataset=dataset,
        queries={"test": sum(len(captions_of(n)) for n in range(len(names)))},
        gallery={"test": len(names)},
        broken={"test": broken},
        missing={"test": missing},
        failing={"test": frozenset()},
    )


def write_visdial(root: Path) -> Miniature:
    """12 images, 2 dialogues of 11 texts."""
    home = root / "VisDial"
    names = [f"unlabeled2017/{581_000 + n:012d}.jpg" for n in range(12)]
    draw_all([home / name for name in names], home / names[10], home / names[11])
    dialogues = [
        {"img": names[n],
         "dialog": [captions_of(n)[0],
                    *(f"is there anything {colour} in it? {'yes' if n else 'no'}, {spoken}"
                      for spoken, colour in enumerate([*COLOURS, "grey", "pink"]))]}
        for n in range(2)
    ]  # fmt: skip
    write_json(home / "Search_Space_val_50k.json", names)
    write_json(home / "VisDial_v1.0_queries_val.json", dialogues)
    return Miniature(
        dataset="visdial",
        queries={"val": 22},
        gallery={"val": 12},
        broken={"val": names[10]},
        missing={"val": names[11]},
        failing={"val": frozenset()},
    )
