"""A miniature of a user's own folder: any names, a gallery list, captions, every kind of query."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.miniatures.captioned import captions_of
from tests.miniatures.pictures import Miniature, draw_all, write_lines

FOLDER = "my pictures"
NAMES = (
    "holiday/sea side.jpg", "holiday/Straße.png", "holiday/v1.2.final.jpeg", "a.webp", "b.BMP",
    "c.gif", "☃.png", "d.png", "e.jpg", "f.tiff", "broken.jpg", "gone.png",
)  # fmt: skip
REFERENCE_ONLY = "references/only this.png"


def write_own_folder(root: Path) -> Miniature:
    """12 listed images and one reference beside them; 7 queries, one without a text."""
    home = root / FOLDER
    paths = [home / name for name in (*NAMES, REFERENCE_ONLY)]
    draw_all(paths, home / "broken.jpg", home / "gone.png")
    (home / "gallery.txt").write_text("# the gallery\n" + "\n".join(NAMES) + "\n", "utf-8")
    captions = [
        {"image_id": name, "caption": captions_of(n)[0]} for n, name in enumerate(NAMES[:3])
    ]
    write_lines(home / "captions.jsonl", captions)
    write_lines(home / "queries.jsonl", _queries())
    return Miniature(
        dataset=f"folder:{FOLDER}",
        queries={"all": 7},
        gallery={"all": len(NAMES)},
        broken={"all": "broken.jpg"},
        missing={"all": "gone.png"},
        failing={"all": frozenset({"no text"})},
    )


def _queries() -> list[dict[str, Any]]:
    return [
        {"query_id": "one target", "reference": "a.webp", "modification_text": "make it blue",
         "target_ids": ["d.png"]},
        {"query_id": "two targets", "reference": "☃.png", "modification_text": "larger",
         "target_ids": ["e.jpg", "c.gif"], "aspects": ["comparative"]},
        {"query_id": "subset", "reference": REFERENCE_ONLY, "modification_text": "by the sea",
         "target_ids": ["holiday/sea side.jpg"],
         "subset_ids": ["holiday/sea side.jpg", "holiday/Straße.png", "a.webp"]},
        {"query_id": "text alone", "modification_text": "a snowman", "target_ids": ["☃.png"]},
        {"query_id": "no text", "reference": "b.BMP", "modification_text": "",
         "target_ids": ["a.webp"]},
        {"query_id": "talk 0", "modification_text": "a street", "dialogue_id": "talk", "round": 0,
         "target_ids": ["holiday/Straße.png"]},
        {"query_id": "talk 1", "modification_text": "is it wet? no", "dialogue_id": "talk",
         "round": 1, "target_ids": ["holiday/Straße.png"]},
    ]  # fmt: skip
