"""docs/api.md is what the gateway is, and tells all of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from gateway.api_reference import api_reference, write_reference
from gateway.client import Client

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "api.md"


def test_the_page_is_what_make_docs_api_writes(tmp_path: Path) -> None:
    write_reference(tmp_path / "api.md")
    assert (tmp_path / "api.md").read_text() == PAGE.read_text(), "run `make docs-api`"


def test_every_operation_record_and_method_has_its_place_and_no_link_leads_nowhere() -> None:
    description = json.loads((ROOT / "docs" / "openapi.json").read_text())
    text = PAGE.read_text()
    headings = re.findall(r"^### (.+)$", text, re.MULTILINE)
    for path, operations in description["paths"].items():
        for method in operations:
            assert f"{method.upper()} {path}" in headings
    assert set(description["components"]["schemas"]) <= set(headings)
    for name in dir(Client):
        assert name.startswith("_") or f"- `{name}(" in text
    anchors = {heading.lower() for heading in headings}
    assert set(re.findall(r"\]\(#(.+?)\)", text)) <= anchors


def test_an_operation_is_told_with_its_bounds_its_answers_and_a_request() -> None:
    # Given a description of one operation
    field = {"type": "string", "maxLength": 9, "examples": ["a b"], "description": "one | two"}
    place = {"name": "n", "in": "query", "required": False, "description": "how many"}
    operation = {
        "tags": ["things"],
        "summary": "Make",
        "description": "Make a\nthing.",
        "parameters": [{**place, "schema": {"type": "integer", "minimum": 1, "default": 3}}],
        "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/x/Thing"}}}},
        "responses": {
            "204": {"description": "Successful Response"},
            "409": {"description": "The name is taken"},
        },
    }
    thing = {"properties": {"name": field, "size": {"type": "integer"}}, "required": ["name"]}
    description = {
        "paths": {"/v1/things/{name}": {"post": operation}},
        "components": {"schemas": {"Thing": thing}},
    }
    # When it is written down
    text = api_reference(description)
    # Then all of it is there
    for line in (
        "## Things",
        "### POST /v1/things/{name}",
        "Make a thing.",
        "| `n` | query | integer, ≥ 1 | `3` | how many |",
        "| 204 | nothing |",
        "| 409 | The name is taken |",
        "curl -s -X POST 'http://127.0.0.1:8000/v1/things/<name>' \\",
        "  -H 'Content-Type: application/json' -d '{\"name\": \"a b\"}'",
        "| `name` | string, length ≤ 9 | **required** | one \\| two |",
        "| `size` | integer |  |  |",
    ):
        assert line in text.splitlines(), line
