"""Data sets: their images, queries and protocols, one file per data set."""

from __future__ import annotations

from shared.datasets.benchmark import Benchmark, Protocol, Query
from shared.datasets.images import Images
from shared.datasets.registry import canonical_name, known_datasets, load_dataset

__all__ = [
    "Benchmark",
    "Images",
    "Protocol",
    "Query",
    "canonical_name",
    "known_datasets",
    "load_dataset",
]
