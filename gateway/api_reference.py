"""Writes docs/api.md from the OpenAPI description: `python -m gateway.api_reference FILE`."""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gateway.app import create_app
from gateway.client import Client
from gateway.redis_client import gateway_redis
from shared import atomic_files
from shared.settings import Settings

_BASE = "http://127.0.0.1:8000"
_INTRODUCTION = """\
# The HTTP API

Written by `make docs-api` from the description that every gateway serves at `/openapi.json`
([openapi.json](openapi.json)); `/docs` there shows the same with forms to try it. Words in angle
brackets stand for ids. Where the gateway asks for keys, add
`-H "Authorization: Bearer $XR_API_KEY"`.

An error is `application/problem+json` (RFC 9457): `type`, `title`, `status`, `detail`,
`request_id`, and more for some types. Lists come in pages: give `next_page_token` as `page_token`
to get the next one.
"""
_CLIENT = """\
## The Python client

`from gateway.client import Client`. Every method raises `GatewayUnreachableError` when nothing
answers, and `GatewayError` with the problem details when the gateway refuses. Records are those
below.

"""


def api_reference(description: Mapping[str, Any]) -> str:
    """The page in Markdown: operations by topic, the Python client, the records.

    Args:
        description: an OpenAPI 3.1 document.
    """
    topics: dict[str, list[str]] = {}
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            text = "\n".join(_operation(method.upper(), path, operation, description))
            topics.setdefault(operation["tags"][0], []).append(text)
    parts = [_INTRODUCTION]
    for topic, texts in topics.items():
        parts += [f"## {topic.capitalize()}\n", *texts]
    parts += [_CLIENT + "\n".join(_client()), "## Records\n"]
    schemas = description["components"]["schemas"]
    parts += ["\n".join(_record(name, schemas[name])) for name in sorted(schemas)]
    return "\n".join(parts).rstrip() + "\n"


def _operation(
    method: str, path: str, operation: Mapping[str, Any], description: Mapping[str, Any]
) -> Iterator[str]:
    yield f"### {method} {path}\n"
    yield f"{' '.join(operation.get('description', operation['summary']).split())}\n"
    parameters = operation.get("parameters", [])
    if parameters:
        yield from _table(
            ("parameter", "in", "values", "default", "what it is"),
            (
                (f"`{one['name']}`", one["in"], *_value(one["schema"]), one.get("description", ""))
                for one in parameters
            ),
        )
    content = operation.get("requestBody", {}).get("content", {})
    if content:
        kinds = (f"{media} ({_kind(of['schema'])})" for media, of in content.items())
        yield f"Body: {' or '.join(kinds)}.\n"
    yield from _table(
        ("status", "answer"),
        (
            ("any other" if status == "default" else status, _answer(status, response))
            for status, response in sorted(operation["responses"].items())
        ),
    )
    yield f"```sh\n{_example(method, path, operation, description)}\n```\n"


def _answer(status: str, response: Mapping[str, Any]) -> str:
    told = response["description"]
    plain = told in ("Successful Response", "")
    kinds = [
        _kind(of["schema"]) if of.get("schema") else media
        for media, of in response.get("content", {}).items()
        if media != "application/problem+json"
    ]
    shown = ", ".join([*kinds, *([] if plain else [told])])
    return shown or ("nothing" if status == "204" else "as said above")


def _example(
    method: str, path: str, operation: Mapping[str, Any], description: Mapping[str, Any]
) -> str:
    url = _BASE + re.sub(r"\{(\w+)\}", r"<\1>", path)
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "query" and parameter["required"]:
            url += f"{'&' if '?' in url else '?'}{parameter['name']}=<{parameter['name']}>"
    command = f"curl -s {'' if method == 'GET' else f'-X {method} '}'{url}'"
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" in content:
        body = _example_body(content["application/json"]["schema"], description)
        given = json.dumps(body, ensure_ascii=False)
        return f"{command} \\\n  -H 'Content-Type: application/json' -d '{given}'"
    if content:
        media = next(iter(content))
        if media == "multipart/form-data":
            return f"{command} \\\n  -F images=@image.png"
        return f"{command} \\\n  -H 'Content-Type: {media}' --data-binary @image.png"
    return command


def _example_body(schema: Mapping[str, Any], description: Mapping[str, Any]) -> dict[str, Any]:
    """The first example of every field that is required, or is a text that has one."""
    name = schema.get("$ref", "").rpartition("/")[2]
    record = description["components"]["schemas"][name] if name else schema
    required = record.get("required", [])
    return {
        field: of["examples"][0]
        for field, of in record["properties"].items()
        if of.get("examples") and (field in required or of.get("type") == "string")
    }


def _client() -> Iterator[str]:
    """Each public method: its signature, and what its docstring says first."""
    classes = [kind for kind in Client.__mro__ if kind is not object]
    for method in (
        method
        for kind in reversed(classes)
        for definition in ast.parse(inspect.getsource(kind)).body
        for method in ast.iter_child_nodes(definition)
    ):
        if not isinstance(method, ast.FunctionDef) or method.name.startswith("_"):
            continue
        given = ast.unparse(method.args).removeprefix("self").removeprefix(", ")
        answer = "" if method.returns is None else f" -> {ast.unparse(method.returns)}"
        told = " ".join((ast.get_docstring(method) or "").split("\n\n")[0].split())
        yield f"- `{method.name}({given}){answer}`" + (f": {told}" if told else "")
    yield ""


def _record(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {name}\n"
    told = " ".join(schema.get("description", "").split())
    if told:
        yield f"{told}\n"
    required = schema.get("required", [])
    yield from _table(
        ("field", "values", "default", "what it is"),
        (
            (
                f"`{field}`",
                _value(of)[0],
                "**required**" if field in required else _value(of)[1],
                of.get("description", ""),
            )
            for field, of in schema.get("properties", {}).items()
        ),
    )


def _value(schema: Mapping[str, Any]) -> tuple[str, str]:
    """(kind and bounds, default) as cells of a table."""
    bounds = [
        f"{words} {schema[name]}"
        for name, words in (
            ("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"),
            ("minLength", "length ≥"), ("maxLength", "length ≤"), ("maxItems", "entries ≤"),
        )
        if name in schema
    ]  # fmt: skip
    default = schema.get("default")
    shown = "" if default in (None, "", [], {}) else f"`{json.dumps(default, ensure_ascii=False)}`"
    return ", ".join([_kind(schema), *bounds]), shown


def _kind(schema: Mapping[str, Any]) -> str:
    """What a schema describes, in a word or a link to its record."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(_kind(one) for one in schema[several]))
    if schema.get("type") == "array":
        inner: Mapping[str, Any] = schema.get("items") or next(
            iter(schema.get("prefixItems", [])), {}
        )
        return f"list of {_kind(inner)}" if inner else "list"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_kind(schema['additionalProperties'])}"
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type", "anything")
    if schema.get("format") == "binary":
        return "bytes"
    return str(kind)


def _table(heading: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(heading)} |"
    yield "|---" * len(heading) + "|"
    for row in rows:
        cells = (" ".join(cell.split()).replace("|", "\\|") for cell in row)
        yield f"| {' | '.join(cells)} |"
    yield ""


def write_reference(path: Path) -> None:
    """Of the gateway as it is."""
    settings = Settings()
    description = create_app(settings, gateway_redis(settings)).openapi()
    atomic_files.write_bytes(path, api_reference(description).encode())


if __name__ == "__main__":
    write_reference(Path(sys.argv[1]))
