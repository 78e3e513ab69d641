"""The JSON schemas of the imagination agent's answers. Key order is the order of generation."""

from __future__ import annotations

from typing import Any

_PHRASE = {"type": "string", "minLength": 1, "maxLength": 160}
_SENTENCE = {"type": "string", "minLength": 1, "maxLength": 400}

TEXT_IMAGINATION: dict[str, Any] = {
    "type": "object",
    "properties": {
        "edits": {
            "type": "array",
            "maxItems": 8,
            "items": {
                "type": "object",
                "properties": {
                    "kind": {"enum": ["add", "remove", "modify", "compare", "retain"]},
                    "subject": _PHRASE,
                    "change": _PHRASE,
                },
                "required": ["kind", "subject", "change"],
                "additionalProperties": False,
            },
        },
        "core": _SENTENCE,
        "enhanced": _SENTENCE,
        "comprehensive": _SENTENCE,
    },
    "required": ["edits", "core", "enhanced", "comprehensive"],
    "additionalProperties": False,
}

IMAGE_IMAGINATION: dict[str, Any] = {
    "type": "object",
    "properties": {
        "existent": {"type": "array", "maxItems": 6, "items": _PHRASE},
        "nonexistent": {"type": "array", "maxItems": 6, "items": _PHRASE},
        "caption": _SENTENCE,
    },
    "required": ["existent", "nonexistent", "caption"],
    "additionalProperties": False,
}
