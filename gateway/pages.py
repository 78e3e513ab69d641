"""Lists in pages: a page's token says where the next one begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeVar

from fastapi import Query

from gateway.errors import ApiError

Item = TypeVar("Item")
PageSize = Annotated[int, Query(ge=1, le=1_000, description="entries in one page")]
PageToken = Annotated[
    str,
    Query(
        max_length=20,
        pattern=r"^[0-9]*$",
        description="next_page_token of the page before; empty = the first",
    ),
]


def first_of(page_token: str) -> int:
    """Where the page begins, 0-based. Raises: ApiError: no token of ours."""
    if not page_token:
        return 0
    if not page_token.isascii() or not page_token.isdigit():
        raise ApiError(422, "invalid-page-token", f"{page_token!r} is no token of a page before")
    return int(page_token)


def page_of(items: Sequence[Item], page_size: int, page_token: str) -> tuple[list[Item], str]:
    """One page and the token of the next, empty where there is none."""
    first = first_of(page_token)
    return list(items[first : first + page_size]), next_token(first, page_size, len(items))


def next_token(first: int, page_size: int, total: int) -> str:
    return str(first + page_size) if first + page_size < total else ""
