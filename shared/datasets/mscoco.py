"""MSCOCO: five or six captions for each of the 5,000 photographs of the Karpathy test split."""

from __future__ import annotations

from shared.datasets.caption_lists import caption_source
from shared.datasets.source import OfficialCounts

SOURCE = caption_source(
    "MSCOCO",
    OfficialCounts(queries=25_010, gallery=5_000),
    lists=("test_5k_mscoco_2014.csv", "coco_karpathy_test5k.json"),
    image_folders=("images", "images_mscoco_2014_5k_test", "images/val2014", "val2014"),
    known_counts={25_009: "coco_karpathy_test5k.json has one caption fewer than the csv file"},
)
