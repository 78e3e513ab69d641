"""Reads the JSON object out of a model's answer, forgiving what engines without a grammar add."""

from __future__ import annotations

import json
import re
from typing import Any

from shared.errors import ItemError

_STRING_OR_TRAILING_COMMA = re.compile(r'"(?:[^"\\]|\\.)*"|,(?=\s*[}\]])', re.DOTALL)
_MAX_STARTS = 16


def json_object(answer: str) -> dict[str, Any]:
    """The first JSON object: after leading text, within code fences, with trailing commas.

    Raises: ItemError: there is none that is whole.
    """
    # Unescaped control characters inside strings are allowed: grammars for bounded strings are too.
    decoder = json.JSONDecoder(strict=False)
    for text in (answer, _STRING_OR_TRAILING_COMMA.sub(_keep_strings, answer)):
        start = text.find("{")
        for _ in range(_MAX_STARTS):
            if start < 0:
                break
            try:
                found, _ = decoder.raw_decode(text, start)
            except (ValueError, RecursionError):
                start = text.find("{", start + 1)
                continue
            if isinstance(found, dict):
                return found
    raise ItemError(f"no JSON object in the answer {answer[:80]!r}")


def phrase(value: Any) -> str:
    """A string with its white space collapsed; empty when the value is no string."""
    return " ".join(value.split()) if isinstance(value, str) else ""


def phrases(value: Any) -> tuple[str, ...]:
    """The non-empty strings of a list, in order, without repetitions."""
    listed = value if isinstance(value, list) else []
    return tuple(dict.fromkeys(text for entry in listed if (text := phrase(entry))))


def _keep_strings(found: re.Match[str]) -> str:
    return "" if found.group().startswith(",") else found.group()
