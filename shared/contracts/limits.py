"""How much of anything is taken in: the one place for sizes, checked where input enters.

They are far above what the data sets and models need, and far below what would hurt a process.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

MAX_TEXT_CHARACTERS = 10_000
"""Of a modification text."""
MAX_QUESTION_CHARACTERS = 2 * MAX_TEXT_CHARACTERS
"""Of a question put to a candidate, which may quote the text."""
MAX_PROMPT_CHARACTERS = 200_000
"""Of a whole prompt, so that no engine tokenises what no context could hold."""
MAX_QUERY_ID_CHARACTERS = 512
MAX_IMAGE_ID_CHARACTERS = 1_024
MAX_ADDRESS_CHARACTERS = 2_048
"""Of what messages are addressed by: message ids (run, query, step and part), jobs, reply lists."""
MAX_QUESTIONS = 100
"""Questions in one message."""
MAX_ROWS = 10_000
"""Gallery rows in one message."""
MAX_COUNTERS = 64
"""Kinds of costs told with an answer."""
MAX_REQUEST_BYTES = 8 << 20
MAX_REPLY_BYTES = 64 << 20
"""A dozen ranked lists of 100,000 rows fit five times."""

Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARACTERS)]
Address = Annotated[str, Meta(max_length=MAX_ADDRESS_CHARACTERS)]
TraceParent = Annotated[str, Meta(max_length=MAX_ADDRESS_CHARACTERS)]
QueryId = Annotated[str, Meta(max_length=MAX_QUERY_ID_CHARACTERS)]
Row = Annotated[int, Meta(ge=0, lt=2**31)]
Rows = Annotated[tuple[Row, ...], Meta(max_length=MAX_ROWS)]
Question = Annotated[str, Meta(max_length=MAX_QUESTION_CHARACTERS)]
Questions = Annotated[tuple[Question, ...], Meta(max_length=MAX_QUESTIONS)]


def too_long(what: str, text: str, at_most: int) -> str:
    """Why `text` is refused ("the modification text has 12,000 characters; ..."), or ""."""
    if len(text) <= at_most:
        return ""
    return f"{what} has {len(text):,} characters; at most {at_most:,} are taken"
