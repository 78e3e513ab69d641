"""What the paper reports for its method, to be shown beside one's own figures.

Source: XR, arXiv 2601.14245; InternVL3-8B, k' = 100, |Q| = 3, RRF k = 60. The splits are
those that the field reports on (FashionIQ val, CIRR test1, CIRCO test); they were not read off the
paper's tables. Figures of another split are a hint, not a comparison.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class PublishedFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a published table.

    Attributes:
        split: what it was measured on.
        metrics: metric -> fraction in [0, 1].
        about: what it is about, where that is not the data set alone; empty = it is.
    """

    label: str
    split: str
    metrics: Mapping[str, float]
    about: str = ""


_B32, _L14 = "paper, CLIP ViT-B/32", "paper, CLIP ViT-L/14"

_FASHIONIQ_MEAN = PublishedFigures(
    label=_B32,
    split="val",
    metrics={"recall@10": 0.3666, "recall@50": 0.5710},
    about="mean of the three categories",
)

_FIGURES: Mapping[str, tuple[PublishedFigures, ...]] = {
    "CIRR": (
        PublishedFigures(
            label=_B32,
            split="test1",
            metrics={
                "recall@1": 0.4306, "recall@5": 0.7386, "recall@10": 0.8315,
                "recall_subset@1": 0.7754, "recall_subset@2": 0.9027, "recall_subset@3": 0.9521,
            },
        ),
        PublishedFigures(label=_L14, split="test1", metrics={"recall@1": 0.4313}),
    ),
    "CIRCO": (
        PublishedFigures(
            label=_B32,
            split="test",
            metrics={"map@5": 0.2751, "map@10": 0.2833, "map@25": 0.3028, "map@50": 0.3095},
        ),
        PublishedFigures(label=_L14, split="test", metrics={"map@5": 0.3138}),
    ),
    "FashionIQ-dress": (
        _FASHIONIQ_MEAN,
        PublishedFigures(label=_L14, split="val", metrics={"recall@10": 0.2871}),
    ),
    "FashionIQ-shirt": (
        _FASHIONIQ_MEAN,
        PublishedFigures(label=_L14, split="val", metrics={"recall@10": 0.3891}),
    ),
    "FashionIQ-toptee": (
        _FASHIONIQ_MEAN,
        PublishedFigures(label=_L14, split="val", metrics={"recall@10": 0.4391}),
    ),
}  # fmt: skip


def published_figures(dataset: str) -> tuple[PublishedFigures, ...]:
    """What is published about a data set, by its canonical name; () where nothing is."""
    return _FIGURES.get(dataset, ())
