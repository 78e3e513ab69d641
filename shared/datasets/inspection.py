"""What there is of a data set on this machine: counts beside the official ones, broken images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import msgspec

from shared.datasets.annotation_files import ImagesAbsentError, MissingFilesError
from shared.datasets.benchmark import Query
from shared.datasets.registry import SOURCES, canonical_name, load_dataset
from shared.datasets.source import DatasetSource, GalleryList, LocatedQuery, check_images, checked
from shared.errors import DatasetError, ItemError
from shared.image_files import inspect_image, stamp_of

State = Literal["ok", "wrong", "absent"]
Progress = Callable[[int, int], None]
"""(images done, images in all)"""

_Found = TypeVar("_Found")
_CHUNK = 512


class ImageProblem(NamedTuple):
    """An image that is missing or unreadable."""

    image_id: str
    path: str
    reason: str


class ImageLook(NamedTuple):
    """How many image files are there, and every one that is missing or unreadable."""

    there: int
    problems: tuple[ImageProblem, ...]


class SplitReport(msgspec.Struct, frozen=True, kw_only=True):
    """One split of one data set as it lies on this machine.

    Attributes:
        state: "wrong" when something that is there is not as it has to be; "absent" when none of
            its annotation files is there.
        queries, gallery: what was found; None = could not be read. Expected: the official counts;
            None = there are none.
        empty_texts: queries without any text; official files have a few.
        images: how many image files are there; None = there is no list of them. 0 = they are
            wholly absent, which is not wrong.
        missing, unreadable: images of the list that are; 0 when all are absent.
        problems: what is wrong or missing, in words.
        notes: what differs from the official files without being wrong.
        image_problems: every missing or unreadable image.
    """

    dataset: str
    split: str
    state: State
    queries: int | None = None
    expected_queries: int | None = None
    empty_texts: int = 0
    gallery: int | None = None
    expected_gallery: int | None = None
    images: int | None = None
    missing: int = 0
    unreadable: int = 0
    protocol: str = ""
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    image_problems: tuple[ImageProblem, ...] = ()


def inspect_dataset(
    name: str, data_root: Path, read_images: bool = False, progress: Progress | None = None
) -> list[SplitReport]:
    """Look at every split of a data set; what is wrong with its files is told, not raised.

    Args:
        name: as for `load_dataset`.
        read_images: decode every image; else only look whether it is there.
    Raises: DatasetError: there is no such data set.
    """
    name = canonical_name(name)
    look = partial(look_at_images, read=read_images, progress=progress)
    if name not in SOURCES:
        return [_inspect_own(name, data_root, look)]
    source = SOURCES[name]
    return [_inspect_split(source, split, data_root, look) for split in source.official]


def look_at_images(
    images: Sequence[tuple[str, Path]], read: bool, progress: Progress | None = None
) -> ImageLook:
    """Look whether every image is there, and with `read` decode it, too.

    When not a single one is there, the images are absent: nothing is said of each.
    """
    bad: list[ImageProblem] = []
    there = done = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), "read-images") as pool:
        remaining = iter(images)
        while chunk := list(islice(remaining, _CHUNK)):
            # Threads are worth it where files are read; to look for a file is too little work.
            seen = pool.map(_read, chunk) if read else map(_find, chunk)
            for (image_id, path), (found, reason) in zip(chunk, seen, strict=True):
                there += found
                if reason:
                    bad.append(ImageProblem(image_id, str(path), reason))
            done += len(chunk)
            if progress is not None:
                progress(done, len(images))
    return ImageLook(there, tuple(bad) if there else ())


def _find(image: tuple[str, Path]) -> tuple[bool, str]:
    """Whether there is something of this name, and why it is no image file."""
    path = str(image[1])
    try:
        stamp_of(path)
    except ItemError as error:
        return image[1].exists(), str(error)
    return True, ""


def _read(image: tuple[str, Path]) -> tuple[bool, str]:
    """As `_find`, and why the file holds no image."""
    there, reason = _find(image)
    if there and not reason:
        try:
            inspect_image(str(image[1]))
        except ItemError as error:
            return True, str(error)
    return there, reason


Look = Callable[[Sequence[tuple[str, Path]]], ImageLook]


def _inspect_split(source: DatasetSource, split: str, data_root: Path, look: Look) -> SplitReport:
    official = source.official[split]
    report = SplitReport(
        dataset=source.name,
        split=split,
        state="ok",
        expected_queries=official.queries,
        expected_gallery=official.gallery,
        protocol=source.protocol.describe(),
    )
    located, no_queries = _attempt(lambda: checked(source.read_queries(split, data_root)))
    gallery, no_gallery = _attempt(lambda: source.read_gallery(split, data_root))
    errors = [error for error in (no_queries, no_gallery) if error is not None]
    if len(errors) == 2 and all(isinstance(error, MissingFilesError) for error in errors):
        return msgspec.structs.replace(report, state="absent", problems=_told(errors))
    problems = _told([error for error in errors if not isinstance(error, ImagesAbsentError)])
    notes = _told([error for error in errors if isinstance(error, ImagesAbsentError)])
    report = msgspec.structs.replace(
        report,
        problems=(*problems, *_misfits(source, split, located, gallery)),
        notes=(*notes, *_remarks(source, located, gallery)),
    )
    queries = None if located is None else [query for _, query in located]
    return _counted(report, queries, None if gallery is None else gallery.images, look)


def _inspect_own(name: str, data_root: Path, look: Look) -> SplitReport:
    """The demo, or a folder of one's own: there is nothing official to compare with."""
    report = SplitReport(dataset=name, split="all", state="ok")
    benchmark, error = _attempt(lambda: load_dataset(name, "all", data_root))
    if benchmark is None:
        state: State = "absent" if isinstance(error, MissingFilesError) else "wrong"
        return msgspec.structs.replace(report, state=state, problems=(str(error),))
    report = msgspec.structs.replace(report, protocol=benchmark.protocol.describe())
    return _counted(report, benchmark.queries, benchmark.images, look)


def _counted(
    report: SplitReport,
    queries: Sequence[Query] | None,
    images: Sequence[tuple[str, Path]] | None,
    look: Look,
) -> SplitReport:
    """The report with its counts, its images looked at, and the verdict."""
    seen = None if images is None else look(images)
    bad = () if seen is None else seen.problems
    unreadable = sum(1 for problem in bad if Path(problem.path).exists())
    wrong = bool(report.problems or bad)
    return msgspec.structs.replace(
        report,
        state="wrong" if wrong else "ok",
        queries=None if queries is None else len(queries),
        empty_texts=sum(1 for query in queries or () if not query.modification_text.strip()),
        gallery=None if images is None else len(images),
        images=None if seen is None else seen.there,
        missing=len(bad) - unreadable,
        unreadable=unreadable,
        image_problems=bad,
    )


def _misfits(
    source: DatasetSource,
    split: str,
    located: list[LocatedQuery] | None,
    gallery: GalleryList | None,
) -> Iterator[str]:
    """Other counts than the official ones, and queries that name images there are not."""
    official = source.official[split]
    counts = (
        ("queries", None if located is None else len(located), official.queries),
        ("gallery images", None if gallery is None else len(gallery.images), official.gallery),
    )
    for what, found, expected in counts:
        if found is not None and found != expected and found not in source.known_counts:
            yield f"{found:,} {what} instead of the official {expected:,}"
    if located is not None and gallery is not None:
        _, misfit = _attempt(lambda: check_images(located, *gallery[:2]))
        if misfit is not None:
            yield str(misfit)


def _remarks(
    source: DatasetSource, located: list[LocatedQuery] | None, gallery: GalleryList | None
) -> Iterator[str]:
    if located is not None and len(located) in source.known_counts:
        yield source.known_counts[len(located)]
    if gallery is not None:
        yield from gallery.deviations


def _attempt(read: Callable[[], _Found]) -> tuple[_Found | None, DatasetError | None]:
    try:
        return read(), None
    except DatasetError as error:
        return None, error


def _told(errors: Sequence[DatasetError]) -> tuple[str, ...]:
    return tuple(map(str, errors))
