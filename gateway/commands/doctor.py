"""`xr doctor`: what is in the way on this machine, and what to do about it."""

from __future__ import annotations

import msgspec
import typer
from rich.markup import escape

from gateway.checks import check_machine
from gateway.commands import output
from gateway.commands.options import JsonOption
from shared.settings import load_settings

_SIGNS = {"ok": "[green]✔[/]", "remark": "[yellow]•[/]", "trouble": "[red]✘[/]"}


def doctor(as_json: JsonOption = False) -> None:
    """Check Python, Redis, GPU, models, data, disk and ports. Exit status 1 on trouble."""
    checks = []
    for check in check_machine(load_settings()):
        checks.append(check)
        if not as_json:
            line = f"{_SIGNS[check.state]} {check.name:<14} {escape(check.found)}"
            output.console.print(line, highlight=False, soft_wrap=True)
            if check.advice:
                output.console.print(
                    f"  {'':<14} [dim]{escape(check.advice)}[/]", highlight=False, soft_wrap=True
                )
    if as_json:
        output.print_json(msgspec.to_builtins(checks))
    if any(check.state == "trouble" for check in checks):
        raise typer.Exit(1)
