"""What a data set file says of itself, and how a benchmark is put together from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from shared.datasets.annotation_files import MissingFilesError
from shared.datasets.benchmark import Benchmark, Protocol, Query
from shared.datasets.images import Images
from shared.errors import DatasetError


class LocatedQuery(NamedTuple):
    """A query, and where it stands ("cap.json, entry 3"), for errors."""

    where: str
    query: Query


class GalleryList(NamedTuple):
    """The images searched, where they are listed, and how this differs from the official list."""

    images: Images
    listed_in: Path
    deviations: tuple[str, ...] = ()


class OfficialCounts(NamedTuple):
    """What the official files of a split hold."""

    queries: int
    gallery: int


@dataclass(frozen=True)
class DatasetSource:
    """One data set of the field: its splits, its official size and protocol, its two readers.

    Attributes:
        name: official spelling.
        folder: below the data root.
        official: counts of every split there is.
        read_queries, read_gallery: (split, data root) -> what is there. They raise
            MissingFilesError for files that are absent, DatasetError for files that are wrong.
        known_counts: counts of queries that are right though not official -> the reason.
    """

    name: str
    folder: str
    official: Mapping[str, OfficialCounts]
    protocol: Protocol
    read_queries: Callable[[str, Path], Iterable[LocatedQuery]]
    read_gallery: Callable[[str, Path], GalleryList]
    known_counts: Mapping[int, str] = field(default_factory=dict)

    def check_split(self, split: str) -> None:
        """Raises: DatasetError: no such split; names those there are."""
        if split not in self.official:
            known = ", ".join(self.official)
            raise DatasetError(f"{self.name} has no split {split!r}; known: {known}")


def load(source: DatasetSource, split: str, data_root: Path) -> Benchmark:
    """Read a split and check that queries and gallery fit together.

    Raises: DatasetError: unknown split, missing or malformed files, an id twice, a query that names
        an image the gallery has not.
    """
    source.check_split(split)
    located = checked(source.read_queries(split, data_root))
    try:
        gallery = source.read_gallery(split, data_root)
    except MissingFilesError as error:
        raise MissingFilesError(f"{source.name} {split}: {error}") from error
    check_images(located, gallery.images, gallery.listed_in)
    queries = tuple(query for _, query in located)
    deviations = (*gallery.deviations, *deviating_counts(source, split, queries, gallery.images))
    return Benchmark(
        name=source.name,
        split=split,
        images=gallery.images,
        searchable=len(gallery.images),
        queries=queries,
        protocol=msgspec.structs.replace(source.protocol, deviations=deviations),
    )


def checked(located: Iterable[LocatedQuery]) -> list[LocatedQuery]:
    """All queries. Raises: DatasetError: an id stands there twice."""
    first: dict[str, str] = {}
    queries = list(located)
    for where, query in queries:
        if query.query_id in first:
            raise DatasetError(
                f"{where}: query {query.query_id!r} stands there twice, first at"
                f" {first[query.query_id]}"
            )
        first[query.query_id] = where
    return queries


def check_images(located: Iterable[LocatedQuery], images: Images, listed_in: Path) -> None:
    """Raises: DatasetError: an image twice, or a query that names one there is not."""
    ids = set(images.ids)
    if len(ids) != len(images):
        seen: set[str] = set()
        for position, image_id in enumerate(images.ids):
            if image_id in seen:
                raise DatasetError(
                    f"{listed_in}, entry {position}: image {image_id!r} stands there twice"
                )
            seen.add(image_id)
    for where, query in located:
        reference = () if query.reference_id is None else (query.reference_id,)
        for role, named in (
            ("reference", reference),
            ("target", query.target_ids),
            ("subset member", query.subset_ids),
        ):
            for image_id in named:
                if image_id not in ids:
                    raise DatasetError(
                        f"{where}: query {query.query_id!r} names image {image_id!r} ({role}),"
                        f" which is not in the gallery ({listed_in})"
                    )


def deviating_counts(
    source: DatasetSource, split: str, queries: Iterable[Query], images: Images
) -> tuple[str, ...]:
    """In words, where a split has another size than the official one."""
    official = source.official[split]
    found = OfficialCounts(sum(1 for _ in queries), len(images))
    return tuple(
        f"{have:,} {what} instead of the official {want:,}"
        for what, have, want in zip(("queries", "gallery images"), found, official, strict=True)
        if have != want
    )
