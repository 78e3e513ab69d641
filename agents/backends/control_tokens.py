"""Keeps words that look like a model's control tokens from becoming them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_MARKUP = (
    r"<\|[^<>|\s]+\|>",  # <|im_start|>, <|endoftext|>, <|image_pad|>, ...
    r"<｜[^<>｜\s]+｜>",  # the same with full-width bars
    r"</?(?:s|bos|eos|pad|unk|mask|cls|sep|image|img|img_context|video|audio|box|quad|ref"
    r"|start_of_turn|end_of_turn|start_of_image|end_of_image|start_of_text|end_of_text"
    r"|think|tool_call|tool_response)>",
    r"<</?SYS>>",
    r"\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|IMG|IMG_BREAK|IMG_END)\]",
)
"""What chat templates of today's models write, whichever model is asked."""


class ControlTokens:
    """Makes control tokens in users' words inert: a space goes behind their first character.

    "<|im_end|>" becomes "< |im_end|>", which is ordinary text to every tokenizer, still says to a
    reader (and a model) what the user wrote, and is undone by taking the space out. Text without
    control tokens stays as it is, to the last byte.
    """

    def __init__(self, tokens: Iterable[str] = ()) -> None:
        """`tokens`: a model's own, on top of what today's chat templates use."""
        own = {token for token in tokens if len(token) > 1 and not re.search(r"\s", token)}
        longest_first = sorted(map(re.escape, own), key=len, reverse=True)
        self._pattern = re.compile("|".join([*longest_first, *_MARKUP]), re.IGNORECASE)

    def inert(self, text: str) -> str:
        """`text` without a control token in it."""
        # Again, as tokens may overlap. It ends: no token holds white space, every turn adds some.
        while (broken := self._pattern.sub(_break, text)) != text:
            text = broken
        return text


def control_tokens_of(tokenizer: Any) -> set[str]:
    """The strings a transformers tokenizer turns into control tokens."""
    added = tokenizer.added_tokens_decoder.values()
    return {str(token.content) for token in added if token.special} | set(
        tokenizer.all_special_tokens
    )


def _break(token: re.Match[str]) -> str:
    return f"{token[0][0]} {token[0][1:]}"
