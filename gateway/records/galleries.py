"""Galleries: which there are, how far their image databases are, and what they hold."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.records.base import Page, Record
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
    progress: list[PhaseProgress] = Field(default_factory=list)
    size_bytes: int = 0
    last_used: str = ""
    error: str = ""


class GalleryList(Page):
    """Galleries, last used first."""

    galleries: list[GalleryView]


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


class UploadView(Record):
    """An image that was uploaded as a reference. It is kept for a day."""

    id: str
    width: int
    height: int
    media_type: str
    size_bytes: int
