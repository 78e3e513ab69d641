"""What all records of the HTTP API have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """Base of all records: immutable, and a field nobody knows is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Page(Record):
    """Base of all lists that come in pages."""

    total: int = Field(default=0, description="how many there are in all pages")
    next_page_token: str = Field(
        default="", description="give it as page_token to get the next page; empty = the last one"
    )


class Problem(BaseModel):
    """An error as RFC 9457 describes it; further members say more about some types."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str = ""
    request_id: str = ""


ImageId = Annotated[str, Field(min_length=1, max_length=1_024)]
GalleryName = Annotated[
    str,
    Field(
        max_length=100,
        description="a gallery's key or name",
        examples=["holidays"],
    ),
]
