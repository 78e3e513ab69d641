"""Data sets: their images, queries and protocols, one file per data set."""

from __future__ import annotations

from shared.datasets.benchmark import Benchmark, Protocol, Query
from shared.datasets.registry import known_datasets, load_dataset

__all__ = ["Benchmark", "Protocol", "Query", "known_datasets", "load_dataset"]
