"""Galleries: which there are, how far their image databases are, and what they hold."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.records.base import ImageId, Page, Record
from gateway.records.benchmarks import PhaseProgress

GALLERY_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
GalleryState = Literal["queued", "indexing", "ready", "failed", "cancelled", "not indexed"]


class GalleryRequest(Record):
    """A gallery of the images in a folder on the server, and how it is to be called."""

    name: Annotated[str, Field(pattern=GALLERY_NAME, examples=["holidays"])]
    folder: Annotated[
        str,
        Field(
            min_length=1,
            max_length=1_000,
            description="below the data root",
            examples=["pictures/2024"],
        ),
    ]


class DatabaseView(Record):
    """One image database: a gallery's captions and embeddings by certain models."""

    key: str
    state: Literal["finished", "unfinished", "building", "damaged"]
    captions: int = 0
    failed_images: int = 0
    captioner: str = ""
    clip: str = ""
    index: str = Field(
        default="", description="what it is ranked by, with the recall of one that is not exact"
    )


class GalleryView(Record):
    """One gallery. It can be searched when its state is "ready"."""

    key: str = Field(description="hash of its images; empty until they have been read")
    name: str = Field(default="", description="of one that was created by a name")
    state: GalleryState
    images: int = 0
    failed_images: int = Field(default=0, description="that cannot be read")
    captions: int = Field(default=0, description="of the database that was used last")
    databases: list[DatabaseView] = Field(default_factory=list)
    datasets: list[str] = Field(
        default_factory=list, description="data sets and splits whose gallery it is"
    )
    folder: str = Field(default="", description="of a gallery created from a server folder")
    uploaded: bool = False
    benchmark_id: str = Field(default="", description="the run that indexes it; see its events")
    version: int = Field(default=0, description="of a named one: the version that is searched")
    pending_changes: int = Field(default=0, description="that are not in that version yet")
    progress: list[PhaseProgress] = Field(default_factory=list)
    size_bytes: int = 0
    last_used: str = ""
    error: str = ""


class GalleryList(Page):
    """Galleries, last used first."""

    galleries: list[GalleryView]


class ImageIds(Record):
    """Images of a gallery."""

    image_ids: Annotated[list[ImageId], Field(min_length=1, max_length=10_000)]


class GalleryUpdate(Record):
    """A change of a gallery that has been written down. It is seen from `version` on, all at once:
    when that run has finished, or, where there was nothing to change, at once."""

    gallery: str
    version: int = Field(description="the change is in this version, and in every later one")
    state: Literal["queued", "unchanged"]
    benchmark_id: str = Field(default="", description="the run that makes it; see its events")
    put: int = Field(default=0, description="images that are added or replaced")
    removed: int = 0
    fields: int = Field(default=0, description="images whose fields are set")


class GalleryVersionView(Record):
    """One version of a gallery; `gallery:NAME@NUMBER` is a benchmark of it."""

    number: int
    since: int = Field(description="the first change in it; `number` is the last one")
    gallery: str = Field(description="key of its images")
    database: str = Field(description="key of the captions and embeddings it was made with")
    images: int
    put: int = Field(default=0, description="images added or replaced since the version before")
    removed: int = 0
    run_id: str = ""
    made_at: str = ""
    current: bool
    kept: bool = Field(description="false = cleared away; it cannot be searched any more")


class GalleryVersionList(Page):
    """Versions of a gallery, the current one first."""

    gallery: str
    current: int = Field(description="0 = not indexed yet")
    last_change: int = Field(description="changes up to this number are written down")
    versions: list[GalleryVersionView]


class GalleryImage(Record):
    row: int
    image_id: str
    width: int = 0
    height: int = 0
    caption: str | None = None
    searchable: bool = True
    failure: str = Field(default="", description="why it cannot be read")


class GalleryImageList(Page):
    """Images of a gallery, in its order."""

    gallery: str
    images: list[GalleryImage]


class GalleryField(Record):
    """One field of the images' metadata, by which a search may be filtered."""

    name: str
    images: int = Field(description="that have it")
    values: list[str | bool] = Field(description="texts and booleans it has, the first 50")
    more_values: bool = False
    low: float | None = Field(default=None, description="of its numbers; null = it has none")
    high: float | None = None


class GalleryFieldList(Record):
    """Empty where nothing is known of the images."""

    gallery: str
    fields: list[GalleryField]


class UploadView(Record):
    """An image that was uploaded as a reference. It is kept for a day."""

    id: str
    width: int
    height: int
    media_type: str
    size_bytes: int
