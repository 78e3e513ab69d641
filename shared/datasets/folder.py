"""A user's own folder: its images, with queries, captions and a gallery list when it has them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import msgspec

from shared.datasets.annotation_files import inside, read_json_lines, read_text_file
from shared.datasets.benchmark import Benchmark, Protocol, Query
from shared.datasets.images import Images
from shared.datasets.query_lines import read_queries
from shared.datasets.source import LocatedQuery, check_images
from shared.errors import DatasetError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
FOLDER_PREFIX = "folder:"
QUERIES = "queries.jsonl"
CAPTIONS = "captions.jsonl"
METADATA = "metadata.jsonl"
GALLERY_LISTS = ("gallery.jsonl", "gallery.txt")
_RECALL_KS = (1, 5, 10, 50)
_MAP_KS = (5, 10, 25, 50)
_SUBSET_KS = (1, 2, 3)
_HITS_KS = (1, 5, 10)


class _ImageLine(msgspec.Struct, frozen=True):
    """A line of gallery.jsonl; an image without an id of its own is called by its file."""

    file: str
    image_id: str = ""


class _CaptionLine(msgspec.Struct, frozen=True):
    image_id: str
    caption: str


class _MetadataLine(msgspec.Struct, frozen=True):
    image_id: str
    fields: dict[str, str | int | float | bool]


def load_folder(folder: Path, split: str = "all") -> Benchmark:
    """Read a folder.

    The gallery is what `gallery.jsonl` or `gallery.txt` lists (one image a line); without such a
    list it is every image below the folder, called by its path within it, with forward slashes.
    Images a list leaves out may still be references. The metrics are those the queries have ground
    truth for: mAP when a query has several targets, R_subset when one has a subset, Hits per round
    when they are dialogues. References stay in the gallery.

    Raises: DatasetError: no such folder, no images in it, or a malformed line.
    """
    _check_folder(folder)
    listing = next((folder / n for n in GALLERY_LISTS if (folder / n).is_file()), None)
    gallery = _all_images(folder) if listing is None else read_gallery_list(listing)
    located = list(read_queries(folder / QUERIES)) if (folder / QUERIES).exists() else []
    images = gallery.and_also(_references_outside(folder, gallery, located))
    check_images(located, images, listing or folder)
    _check_targets(located, gallery)
    queries = tuple(query for _, query in located)
    return Benchmark(
        name=folder.name,
        split=split,
        images=images,
        searchable=len(gallery),
        queries=queries,
        protocol=protocol_of(queries),
        captions=captions_of(folder / CAPTIONS, set(images.ids)),
        metadata=_metadata(folder / METADATA, images),
    )


def image_files(folder: Path) -> list[str]:
    """Every image file below `folder`, sorted; hidden names are left out.

    Links to folders are not followed: they may lead in circles.
    Raises: DatasetError: no such folder, or no image in it.
    """
    _check_folder(folder)
    found: list[str] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(parent).relative_to(folder).as_posix()
        prefix = "" if below == "." else f"{below}/"
        found += [
            prefix + name
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 - Path objects triple the time of 120,000 of these
        ]
    if not found:
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DatasetError(f"no images in {folder}; files ending in {kinds} are looked for")
    return sorted(found)


def _check_folder(folder: Path) -> None:
    """Raises: DatasetError: it is none."""
    try:
        found = folder.is_dir()
    except OSError as error:  # a name that is too long
        raise DatasetError(f"{folder}: {error.strerror}") from error
    if not found:
        raise DatasetError(f"{folder} is not a folder")


def read_gallery_list(path: Path) -> Images:
    """The images a list names, relative to its own folder, in its order.

    `.jsonl`: {"file": ..., "image_id": ...} a line; else one file a line. Blank lines and, in a
    text list, lines that start with # are left out.

    Raises: DatasetError: names the line.
    """
    files: dict[str, str] = {}
    for where, line in _gallery_lines(path):
        file = inside(line.file, where)
        image_id = line.image_id or file
        if image_id in files:
            raise DatasetError(f"{where}: image {image_id!r} stands there twice")
        files[image_id] = file
    if not files:
        raise DatasetError(f"{path} lists no images")
    return Images(path.parent, list(files), list(files.values()))


def _gallery_lines(path: Path) -> Iterator[tuple[str, _ImageLine]]:
    if path.suffix == ".jsonl":
        for number, line in read_json_lines(path, _ImageLine):
            yield f"{path}, line {number}", line
        return
    for number, text in enumerate(read_text_file(path).decode().splitlines(), start=1):
        if text.strip() and not text.startswith("#"):
            yield f"{path}, line {number}", _ImageLine(file=text.strip())


def _all_images(folder: Path) -> Images:
    files = image_files(folder)
    return Images(folder, files, files)


def _references_outside(
    folder: Path, gallery: Images, located: Sequence[LocatedQuery]
) -> Sequence[str]:
    """References that are files of the folder but not in its gallery list, each once."""
    known = set(gallery.ids)
    return list(
        dict.fromkeys(
            inside(reference, where)
            for where, query in located
            if (reference := query.reference_id) is not None
            and reference not in known
            and (folder / reference).is_file()
        )
    )


def _check_targets(located: Sequence[LocatedQuery], gallery: Images) -> None:
    """An image that is a reference only cannot be found, so it can be nobody's target."""
    known = set(gallery.ids)
    for where, query in located:
        for image_id in (*query.target_ids, *query.subset_ids):
            if image_id not in known:
                raise DatasetError(
                    f"{where}: query {query.query_id!r} names image {image_id!r}, which is not in"
                    " the gallery list"
                )


def captions_of(path: Path, known: Collection[str], *, strict: bool = True) -> dict[str, str]:
    """The captions of captions.jsonl by image id, {} without such a file.

    Args:
        known: the images there are; a caption of another one is an error when `strict`, else it is
            left out.
    """
    if not path.is_file():
        return {}
    captions: dict[str, str] = {}
    for number, line in read_json_lines(path, _CaptionLine):
        where = f"{path}, line {number}"
        if line.image_id not in known:
            if not strict:
                continue
            raise DatasetError(f"{where}: there is no image {line.image_id!r}")
        if line.image_id in captions:
            raise DatasetError(f"{where}: image {line.image_id!r} has a second caption")
        if not line.caption.strip():
            raise DatasetError(f"{where}: the caption of {line.image_id!r} is empty")
        captions[line.image_id] = line.caption
    return captions


def _metadata(path: Path, images: Images) -> dict[str, dict[str, str | int | float | bool]]:
    """The fields of metadata.jsonl by image id, {} without such a file."""
    if not path.is_file():
        return {}
    known = set(images.ids)
    metadata: dict[str, dict[str, str | int | float | bool]] = {}
    for number, line in read_json_lines(path, _MetadataLine):
        where = f"{path}, line {number}"
        if line.image_id not in known:
            raise DatasetError(f"{where}: there is no image {line.image_id!r}")
        if line.image_id in metadata:
            raise DatasetError(f"{where}: image {line.image_id!r} stands there twice")
        metadata[line.image_id] = line.fields
    return metadata


def protocol_of(queries: Sequence[Query]) -> Protocol:
    """The metrics that the queries have ground truth for."""
    return Protocol(
        exclude_reference=False,
        recall_ks=_RECALL_KS,
        map_ks=_MAP_KS if any(len(query.target_ids) > 1 for query in queries) else (),
        subset_ks=_SUBSET_KS if any(query.subset_ids for query in queries) else (),
        hits_ks=_HITS_KS if any(query.round is not None for query in queries) else (),
    )
