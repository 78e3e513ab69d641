"""Flickr30K: five captions for each of the 1,000 photographs of the Karpathy test split."""

from __future__ import annotations

from shared.datasets.caption_lists import caption_source
from shared.datasets.source import OfficialCounts

SOURCE = caption_source(
    "Flickr30K",
    OfficialCounts(queries=5_000, gallery=1_000),
    lists=("test_1k_flickr.csv", "flickr30k_test1k.json"),
    image_folders=("images", "images_flickr_1k_test", "flickr30k-images"),
)
