"""The OpenAPI description is kept, so that every change of the API is seen in a review."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from gateway import records
from gateway.records.examples import EXAMPLES
from tests.unit.gateway.fakes import Api

SNAPSHOT = Path(__file__).resolve().parents[3] / "docs" / "openapi.json"
DESCRIPTION: dict[str, Any] = json.loads(SNAPSHOT.read_text())
MAIN_OPERATIONS = (
    ("post", "/v1/benchmarks", "202"),
    ("get", "/v1/benchmarks", "200"),
    ("get", "/v1/benchmarks/{benchmark_id}", "200"),
    ("post", "/v1/galleries", "202"),
    ("get", "/v1/galleries", "200"),
    ("get", "/v1/galleries/{key}", "200"),
    ("get", "/v1/galleries/{key}/images", "200"),
    ("post", "/v1/uploads", "201"),
    ("post", "/v1/search", "200"),
    ("get", "/v1/runs", "200"),
)


async def test_the_description_is_the_one_that_is_kept(api: Api) -> None:
    found = (await api.http.get("/openapi.json")).json()
    found["info"]["version"] = "0"
    assert found["openapi"].startswith("3.1")
    assert found == DESCRIPTION, "`make docs-openapi` writes it anew"


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_are_what_they_are_examples_of(name: str) -> None:
    schemas = DESCRIPTION["components"]["schemas"]
    assert schemas[name]["examples"] == EXAMPLES[name]
    schema = {**DESCRIPTION, "$ref": f"#/components/schemas/{name}"}
    validator = jsonschema_rs.Draft202012Validator(schema)
    for example in EXAMPLES[name]:
        validator.validate(example)
        getattr(records, name).model_validate(example)


@pytest.mark.parametrize(("method", "path", "status"), MAIN_OPERATIONS)
def test_requests_and_answers_of_the_main_operations_have_examples(
    method: str, path: str, status: str
) -> None:
    operation = DESCRIPTION["paths"][path][method]
    answer = operation["responses"][status]["content"]["application/json"]["schema"]
    assert _record(answer) in EXAMPLES
    request = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if request is not None:
        assert _record(request["schema"]) in EXAMPLES


def test_every_route_says_which_errors_it_answers_with() -> None:
    for path, operations in DESCRIPTION["paths"].items():
        if not path.startswith("/v1/"):
            continue
        for method, operation in operations.items():
            errors = {
                status: response
                for status, response in operation["responses"].items()
                if status >= "400"
            }
            assert {"401", "403", "422", "429", "503"} <= errors.keys(), (method, path)
            for status, response in errors.items():
                assert set(response["content"]) == {"application/problem+json"}, (path, status)


def _record(schema: dict[str, Any]) -> str:
    return str(schema["$ref"]).rpartition("/")[2]
