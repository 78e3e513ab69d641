"""`xr keys`: API keys of the gateway, on the volume it serves from."""

from __future__ import annotations

import datetime
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from gateway.api_keys import SCOPES, ApiKey, ApiKeys
from gateway.commands import output
from gateway.commands.options import JsonOption
from shared.settings import load_settings

keys_app = typer.Typer(
    help="API keys: who may use the gateway, and for what.", no_args_is_help=True
)


@keys_app.command()
def create(
    name: Annotated[str, typer.Argument(help="whose it is, or what it is for")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(SCOPES)}; repeatable [default: read and search]"),
    ] = None,
    days: Annotated[
        float | None, typer.Option(min=0.001, help="valid so many days [default: for ever]")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and show it, this once. The gateway takes it at once."""
    lifetime = None if days is None else datetime.timedelta(days=days)
    key, token = _keys().create(name, scope or ["read", "search"], lifetime)
    if as_json:
        output.print_json({**_shown(key), "key": token})
        return
    output.notes.print("keep it: only its hash is stored, and it is not shown again")
    output.console.print(token, highlight=False, soft_wrap=True)


@keys_app.command("list")
def list_keys(as_json: JsonOption = False) -> None:
    """Every key that was made, oldest first; not the keys themselves."""
    known = _keys().all()
    if as_json:
        output.print_json([_shown(key) for key in known])
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("id", "name", "scopes", "state", "created", "expires"):
        table.add_column(name, no_wrap=name == "id")
    for key in known:
        table.add_row(
            key.id, key.name, ", ".join(key.scopes), key.state, key.created_at,
            key.expires_at or "never",
        )  # fmt: skip
    output.console.print(table)


@keys_app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID")], as_json: JsonOption = False
) -> None:
    """Make a key useless, at once and for good."""
    key = _keys().revoke(key_id)
    if as_json:
        output.print_json(_shown(key))
    else:
        output.console.print(f"key {key.id} ({key.name}) is revoked", highlight=False)


def _keys() -> ApiKeys:
    return ApiKeys(load_settings().home)


def _shown(key: ApiKey) -> dict[str, object]:
    fields: dict[str, object] = msgspec.to_builtins(key)
    return {
        **{n: v for n, v in fields.items() if n not in ("digest", "revoked")},
        "state": key.state,
    }
