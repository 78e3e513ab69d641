"""The JSON schema of the question agent's propositions. Key order is the order of generation."""

from __future__ import annotations

from typing import Any


def propositions_schema(limit: int) -> dict[str, Any]:
    """At most `limit` questions, each with the answer expected of the target."""
    return {
        "type": "object",
        "properties": {
            "propositions": {
                "type": "array",
                "minItems": 1,
                "maxItems": limit,
                "items": {
                    "type": "object",
                    "properties": {
                        "question": {"type": "string", "minLength": 1, "maxLength": 160},
                        "expected": {"enum": ["yes", "no"]},
                    },
                    "required": ["question", "expected"],
                    "additionalProperties": False,
                },
            }
        },
        "required": ["propositions"],
        "additionalProperties": False,
    }
