"""Miniatures of CIRCO, CIRR and FashionIQ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.miniatures.pictures import Miniature, draw_all, write_json

CHANGES = (
    "is blue and stands further left",
    "shows two of them instead of one",
    "has no yellow in it",
    'is larger than the "old" one — café colours',
    "is the same, but green",
    "has a different shape & background",
)
ASPECTS = ("cardinality", "addition", "negation", "viewpoint")


def write_circo(
    root: Path, with_list: bool = True, annotations: str = "annotations", images: str = "nested"
) -> Miniature:
    """20 photographs; 6 queries in val, 7 in test (the last one's reference is broken).

    Args:
        with_list: whether there is image_info_unlabeled2017.json.
        annotations: the folder of val.json and test.json.
        images: "nested" in COCO2017_unlabeled, or "plain": unlabeled2017 right in the data root.
    """
    home = root / "CIRCO"
    parent = home / "COCO2017_unlabeled" if images == "nested" else root
    ids = [8 + 4_001 * n for n in range(20)]
    files = [f"{image_id:012d}.jpg" for image_id in ids]
    folder = parent / "unlabeled2017"
    draw_all([folder / file for file in files], folder / files[18], folder / files[19])
    if with_list:
        infos = [
            {"license": 1, "file_name": file, "coco_url": f"http://example.org/{file}",
             "height": 48, "width": 48, "date_captured": "2013-11-14 11:18:45", "id": image_id}
            for image_id, file in zip(ids, files, strict=True)
        ]  # fmt: skip
        document = {"info": {"year": 2017}, "images": infos, "licenses": []}
        write_json(parent / "annotations" / "image_info_unlabeled2017.json", document)
    val = [
        {
            "reference_img_id": ids[n],
            "target_img_id": ids[n + 6],
            "relative_caption": CHANGES[n],
            "shared_concept": "a coloured shape",
            "gt_img_ids": [ids[n + 6], *(ids[n + 7 + m] for m in range(n % 3))],
            "id": n,
            "semantic_aspects": [ASPECTS[n % 4], ASPECTS[(n + 1) % 4]],
        }
        for n in range(6)
    ]
    references = [*ids[:6], ids[18]]
    test = [
        {"reference_img_id": reference, "relative_caption": f"{CHANGES[n % 6]}, again",
         "shared_concept": "a coloured shape", "id": n}
        for n, reference in enumerate(references)
    ]  # fmt: skip
    write_json(home / annotations / "val.json", val)
    write_json(home / annotations / "test.json", test)
    return Miniature(
        dataset="circo",
        queries={"val": 6, "test": 7},
        gallery={"val": 20 if with_list else 19, "test": 20 if with_list else 19},
        broken={"val": str(ids[18]), "test": str(ids[18])},
        missing={"val": str(ids[19]), "test": str(ids[19])},
        failing={"val": frozenset(), "test": frozenset({"6"})},
    )


def write_cirr(root: Path, nested: bool = False) -> Miniature:
    """14 images each in val and test1; 7 queries each, one of test1 without a text.

    Args:
        nested: the annotation folders lie in CIRR/cirr instead of CIRR.
    """
    home = root / "CIRR"
    annotations = home / "cirr" if nested else home
    names: dict[str, list[str]] = {}
    for split, folder in (("val", "dev"), ("test1", "test1")):
        names[split] = [f"{folder}-{10 * n}-{n % 3}-img{n % 2}" for n in range(14)]
        files = {name: f"./{folder}/{name}.png" for name in names[split]}
        paths = [home / file for file in files.values()]
        draw_all(paths, paths[12], paths[13])
        write_json(annotations / "image_splits" / f"split.rc2.{split}.json", files)
    val = [_cirr_entry(names["val"], n) for n in range(7)]
    test1 = [_cirr_entry(names["test1"], n) for n in range(7)]
    for entry in test1:
        del entry["target_hard"], entry["target_soft"]
    test1[4]["caption"] = ""
    write_json(annotations / "captions" / "cap.rc2.val.json", val)
    write_json(annotations / "captions" / "cap.rc2.test1.json", test1)
    extended = [
        {"pairid": entry["pairid"], "reference": entry["reference"],
         "target_hard": entry["target_hard"],
         "caption_extend": {"0": "being a shape", "1": "", "2": "", "3": "[cr0] nothing"}}
        for entry in val
    ]  # fmt: skip
    write_json(annotations / "captions_ext" / "cap.ext.rc2.val.json", extended)
    return Miniature(
        dataset="cirr",
        queries={"val": 7, "test1": 7},
        gallery={"val": 14, "test1": 14},
        broken={split: names[split][12] for split in names},
        missing={split: names[split][13] for split in names},
        failing={"val": frozenset({"106"}), "test1": frozenset({"104", "106"})},
    )


def _cirr_entry(names: list[str], n: int) -> dict[str, Any]:
    """Query n; the last one's reference is the broken image."""
    first = 0 if n < 3 else 6
    members = names[first : first + 6]
    reference = members[n % 6]
    if n == 6:
        reference = names[12]
        members = [*members[:5], reference]
    target = next(name for name in members[::-1] if name != reference)
    return {
        "pairid": 100 + n,
        "reference": reference,
        "target_hard": target,
        "target_soft": {target: 1.0},
        "caption": CHANGES[n % 6],
        "img_set": {"id": first, "members": members, "reference_rank": 2, "target_rank": 3},
    }


def write_fashioniq(root: Path, category: str = "dress") -> Miniature:
    """15 images of one category, .png and .jpg; 6 queries, one with an empty first caption."""
    home = root / "FashionIQ"
    ids = [f"B00{category.upper()}{n:02d}" for n in range(12)]
    ids += [f"B00 {category} café.v1", f"B99{category}", f"B98{category}"]
    files = [
        home / "images" / f"{image_id}{'.png' if n % 3 else '.jpg'}"
        for n, image_id in enumerate(ids)
    ]
    draw_all(files, files[13], files[14])
    write_json(home / "image_splits" / f"split.{category}.val.json", ids)
    queries = [
        {"target": ids[n + 6], "candidate": ids[n],
         "captions": ["" if n == 3 else f"is {CHANGES[n]} ", "has shorter sleeves"]}
        for n in range(5)
    ]  # fmt: skip
    queries.append({"target": ids[2], "candidate": ids[12], "captions": ["is plain", "no dots"]})
    write_json(home / "captions" / f"cap.{category}.val.json", queries)
    return Miniature(
        dataset=f"fashioniq-{category}",
        queries={"val": 6},
        gallery={"val": 15},
        broken={"val": ids[13]},
        missing={"val": ids[14]},
        failing={"val": frozenset()},
    )
