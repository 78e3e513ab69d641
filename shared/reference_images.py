"""Reference images that are no gallery images: uploads, and crops of any image.

Each lies in XR_HOME/reference_images/<id>/, named by what it holds, and is listed in a gallery of
its own, so that agents find it as they find all images. After a day it goes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from shared import atomic_files
from shared.errors import MALFORMED, DatasetError, ItemError
from shared.galleries import mark_used, write_gallery
from shared.image_files import MAX_BYTES, decode_image, open_image
from shared.settings import Settings

Crop = tuple[float, float, float, float]
"""x, y, width, height as fractions of the upright image."""

REFERENCE_MARK = "reference"
"""A file of this name says that a gallery is one reference image, nothing to be searched."""
KEPT_S = 24 * 3600.0
_IMAGE, _META = "image", "meta.json"
_ID = re.compile(r"[0-9a-f]{32}")


class ReferenceImage(msgspec.Struct, frozen=True, kw_only=True):
    """One of them. `gallery` is the key of the gallery that holds it, in row 0."""

    id: str
    gallery: str
    width: int
    height: int
    media_type: str
    size_bytes: int


class ImageKind(NamedTuple):
    """What an image file is by its content: media type, and size as stored."""

    media_type: str
    width: int
    height: int


def kind_of(content: bytes) -> ImageKind:
    """Raises: ItemError: not an image of a known format, or of too many pixels."""
    with open_image(content) as image:
        return ImageKind(f"image/{(image.format or '').lower()}", *image.size)


def keep_reference(settings: Settings, content: bytes) -> ReferenceImage:
    """Keep an uploaded image; the same bytes are kept once.

    Raises: ItemError: too large, no image, damaged, or of too many pixels.
    """
    if len(content) > MAX_BYTES:
        raise ItemError(f"file of {len(content)} bytes; at most {MAX_BYTES} are read")
    reference_id = hashlib.sha256(content).hexdigest()[:32]
    with contextlib.suppress(DatasetError):
        return find_reference(settings, reference_id)
    kind = kind_of(content)
    decode_image(content)  # damage beyond the header is told now, not in the search
    _drop_old_ones(settings)
    folder = _folder(settings, reference_id)
    with atomic_files.building_folder(folder) as building:
        (building / _IMAGE).write_bytes(content)
    gallery = write_gallery(settings.galleries_folder, [(reference_id, folder / _IMAGE)])
    (gallery.folder / REFERENCE_MARK).touch()
    reference = ReferenceImage(
        id=reference_id,
        gallery=gallery.key,
        width=kind.width,
        height=kind.height,
        media_type=kind.media_type,
        size_bytes=len(content),
    )
    atomic_files.write_json(folder / _META, msgspec.to_builtins(reference))
    return reference


def find_reference(settings: Settings, reference_id: str) -> ReferenceImage:
    """One that was kept. Raises: DatasetError: there is none, or it is gone by now."""
    gone = DatasetError(
        f"no uploaded image {reference_id!r}: uploads are kept for a day; upload it again"
    )
    if not _ID.fullmatch(reference_id):
        raise gone
    folder = _folder(settings, reference_id)
    try:
        found = msgspec.json.decode((folder / _META).read_bytes(), type=ReferenceImage)
    except (OSError, *MALFORMED):
        raise gone from None
    mark_used(folder)
    return found


def read_reference(settings: Settings, reference_id: str) -> bytes:
    """Its bytes. Raises: DatasetError: there is none."""
    find_reference(settings, reference_id)
    return (_folder(settings, reference_id) / _IMAGE).read_bytes()


def cropped(settings: Settings, content: bytes, crop: Crop) -> ReferenceImage:
    """The part of an image that is meant, kept as a reference of its own.

    Raises: ItemError: the part lies outside, or is smaller than a pixel; or as `keep_reference`.
    """
    return keep_reference(settings, crop_image(content, crop))


def crop_image(content: bytes, crop: Crop) -> bytes:
    """The part as a PNG file, upright; whole pixels, rounded outwards.

    Raises: ItemError: it lies outside the image, or has no area; the image is damaged.
    """
    x, y, width, height = crop
    if min(x, y) < 0 or min(width, height) <= 0 or x + width > 1 + 1e-9 or y + height > 1 + 1e-9:
        raise ItemError(f"crop {list(crop)} is no part of the image: x, y, width, height in [0, 1]")
    with decode_image(content) as image:
        left, top = int(x * image.width), int(y * image.height)
        right = min(image.width, max(left + 1, math.ceil((x + width) * image.width)))
        bottom = min(image.height, max(top + 1, math.ceil((y + height) * image.height)))
        if left >= image.width or top >= image.height:
            raise ItemError(f"crop {list(crop)} is smaller than a pixel")
        stream = io.BytesIO()
        image.crop((left, top, right, bottom)).save(stream, "PNG")
        return stream.getvalue()


def _folder(settings: Settings, reference_id: str) -> Path:
    return settings.reference_images_folder / reference_id


def _drop_old_ones(settings: Settings) -> None:
    """What was not used for a day goes, with its gallery."""
    for folder in _old(settings.reference_images_folder):
        with contextlib.suppress(OSError, *MALFORMED):
            found = msgspec.json.decode((folder / _META).read_bytes(), type=ReferenceImage)
            gallery = settings.galleries_folder / found.gallery
            if (gallery / REFERENCE_MARK).exists():
                shutil.rmtree(gallery)
        shutil.rmtree(folder, ignore_errors=True)


def _old(parent: Path) -> Iterator[Path]:
    latest = time.time() - KEPT_S
    for folder in parent.iterdir() if parent.is_dir() else ():
        with contextlib.suppress(OSError):
            if folder.stat().st_mtime < latest:
                yield folder
