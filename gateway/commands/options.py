"""Options several sub-commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.client import Client
from shared.settings import load_settings

GatewayOption = Annotated[
    str | None, typer.Option("--gateway", help="URL of the gateway [default: XR_GATEWAY_URL]")
]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON instead of text")]


def connect(gateway: str | None) -> Client:
    """A client of the gateway named, or of the one the settings name."""
    return Client(gateway or load_settings().gateway_url)
