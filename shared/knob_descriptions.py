"""What is told about the knobs elsewhere, made from `Knobs`: JSON schema and the settings' table.

`python -m shared.knob_descriptions docs/settings.md` writes the table anew between its two marks.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec

from shared.errors import ConfigurationError
from shared.knobs import Knobs, allowed_values

BEGIN, END = "<!-- knobs: written by `make docs-settings` -->", "<!-- end of knobs -->"

Kind = Literal["integer", "number", "boolean", "string", "choice", "choices", "names"]


class KnobDescription(msgspec.Struct, frozen=True, kw_only=True):
    """One knob as a person reads it.

    Attributes:
        kind: "choice" is one of `choices`, "choices" several of them, "names" any strings. A
            number may have choices, too: words that may stand in its place.
        minimum, maximum: bounds, both allowed; None where there are none.
        default: the Python value; None means "not given".
    """

    name: str
    kind: Kind
    help: str
    default: Any
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None

    @property
    def option(self) -> str:
        """Its name on a command line, without the dashes in front."""
        return self.name.replace("_", "-")

    def values(self) -> str:
        """What it may be, in words."""
        if self.kind == "choices":
            return f"any of {', '.join(self.choices)}"
        if self.kind == "choice":
            return " or ".join([", ".join(self.choices[:-1]), self.choices[-1]])
        if self.kind == "names":
            return "names"
        if self.minimum is not None and self.maximum is not None:
            bounds = f"{self.kind}, {self.minimum:.15g} to {self.maximum:.15g}"
            return ", or ".join((bounds, *self.choices))
        return self.kind

    def shown_default(self) -> str:
        """The default as one would write it; empty when there is none."""
        if isinstance(self.default, tuple):
            return ",".join(self.default)
        if isinstance(self.default, bool):
            return str(self.default).lower()
        return "" if self.default is None else str(self.default)


def json_schema() -> dict[str, Any]:
    """The knobs as a JSON schema: types, bounds, defaults, descriptions, and no other name."""
    schema: dict[str, Any] = msgspec.json.schema(Knobs)["$defs"]["Knobs"]
    return {**schema, "additionalProperties": False}


def describe_knobs() -> tuple[KnobDescription, ...]:
    """All knobs, in the order in which `Knobs` defines them."""
    schemas = json_schema()["properties"]
    return tuple(_described(field, schemas[field.name]) for field in msgspec.structs.fields(Knobs))


def markdown_table() -> str:
    """The knobs as a table for docs/settings.md, its two marks included."""
    lines = [
        BEGIN,
        "| knob | option of `xr bench` | values | default | what it is |",
        "|---|---|---|---|---|",
    ]
    for knob in describe_knobs():
        default = f"`{knob.shown_default()}`" if knob.shown_default() else "not given"
        lines.append(
            f"| `{knob.name}` | `--{knob.option}` | {knob.values()} | {default} |"
            f" {knob.help.replace('|', chr(92) + '|')} |"
        )
    return "\n".join([*lines, END])


def with_table(document: str) -> str:
    """A document with the table between its marks made anew.

    Raises: ConfigurationError: the marks are not there.
    """
    around = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not around.search(document):
        raise ConfigurationError(f"the document has no lines {BEGIN} and {END}")
    return around.sub(lambda _found: markdown_table(), document)


def main(paths: Iterable[str]) -> None:
    for path in map(Path, paths):
        path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")


def _described(field: msgspec.structs.FieldInfo, schema: dict[str, Any]) -> KnobDescription:
    kind = _kind(schema)
    number = next((part for part in schema.get("anyOf", ()) if "minimum" in part), schema)
    words = [word for part in schema.get("anyOf", ()) for word in part.get("enum", ())]
    return KnobDescription(
        name=field.name,
        kind=kind,
        help=schema["description"],
        default=field.default,
        choices=allowed_values(field.type) if kind in ("choice", "choices") else tuple(words),
        minimum=number.get("minimum"),
        maximum=number.get("maximum"),
    )


def _kind(schema: dict[str, Any]) -> Kind:
    if "enum" in schema:
        return "choice"
    if schema.get("type") == "array":
        return "choices" if "enum" in schema["items"] else "names"
    kinds = [schema.get("type"), *(part.get("type") for part in schema.get("anyOf", ()))]
    known: tuple[Kind, ...] = ("boolean", "integer", "number", "string")
    return next(kind for kind in known if kind in kinds)


if __name__ == "__main__":
    main(sys.argv[1:])
