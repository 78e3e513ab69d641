"""Where the pictures of a report come from: the gateway's URLs, or the file itself."""

from __future__ import annotations

import base64
import functools
from pathlib import Path
from urllib.parse import quote

from gateway.report.page import Picture
from shared.errors import DatasetError, ItemError
from shared.galleries import open_gallery
from shared.image_files import read_content
from shared.thumbnails import MEDIA_TYPE, make_thumbnail

WIDTH = 160
"""Pixels of a picture inside a report file: twice what it is shown at."""


def by_url(gallery: str) -> Picture:
    """Pictures as the gateway serves them."""
    return lambda image_id: (
        f"/v1/galleries/{quote(gallery)}/images/{quote(image_id, safe='')}?width=320"
    )


def inside(galleries_folder: Path, gallery: str) -> Picture:
    """Pictures as data: URIs; empty where an image is missing or broken.

    Raises: DatasetError: there is no such gallery.
    """
    opened = open_gallery(galleries_folder, gallery)

    @functools.cache
    def picture(image_id: str) -> str:
        try:
            file = opened.image_file(opened.row_of(image_id))
            small = make_thumbnail(read_content(file.path), WIDTH)
        except (ItemError, DatasetError):
            return ""
        return f"data:{MEDIA_TYPE};base64,{base64.b64encode(small).decode()}"

    return picture
