"""The knobs as options of a command, one each, made from their definition in `shared.knobs`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from shared.knob_descriptions import KnobDescription, describe_knobs

Command = Callable[..., None]


def with_knobs(command: Command) -> Command:
    """`command` with an option per knob in place of its `**knobs`.

    It is called with every knob by its name, None where the option was not given; see `given`.
    """
    signature = inspect.signature(command, eval_str=True)
    own = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    options = [
        inspect.Parameter(
            knob.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(knob)
        )
        for knob in describe_knobs()
    ]

    def with_options(**arguments: Any) -> None:
        command(**arguments)

    with_options.__name__, with_options.__doc__ = command.__name__, command.__doc__
    with_options.__annotations__ = {part.name: part.annotation for part in (*own, *options)}
    with_options.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return with_options


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The knobs that were given, as a request has them: lists are written with commas."""
    kinds = {knob.name: knob.kind for knob in describe_knobs()}
    return {
        name: _as_asked(value, kinds[name]) for name, value in options.items() if value is not None
    }


def _as_asked(value: Any, kind: str) -> Any:
    if kind in ("choices", "names"):
        return [part for part in value.split(",") if part]
    return int(value) if kind == "integer" and str(value).isdecimal() else value


def _option(knob: KnobDescription) -> Any:
    """The annotation of the option; values no type checks here are checked with the request."""
    more: dict[str, Any] = {
        "help": f"{knob.help} [default: {knob.shown_default() or 'not given'}]",
        "rich_help_panel": "Knobs",
    }
    names = f"--{knob.option}"
    if knob.kind == "boolean":
        return Annotated[bool | None, typer.Option(f"{names}/--no-{knob.option}", **more)]
    if knob.choices and knob.kind == "integer":
        return Annotated[
            str | None, typer.Option(names, metavar="|".join(["N", *knob.choices]), **more)
        ]
    if knob.kind == "integer" or knob.kind == "number":
        kind = int if knob.kind == "integer" else float
        more |= {"min": knob.minimum, "max": knob.maximum}
        return Annotated[kind | None, typer.Option(names, **more)]
    shape = {
        "choice": "|".join(knob.choices),
        "choices": f"{'|'.join(knob.choices)},...",
        "names": "NAME,...",
        "string": "MODEL",
    }[knob.kind]
    return Annotated[str | None, typer.Option(names, metavar=shape, **more)]
