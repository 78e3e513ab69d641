"""`xr up`: all services on this machine, a worker per GPU, and one view of all of them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from gateway.client import Client, GatewayError, GatewayUnreachableError
from gateway.commands import output
from gateway.commands.demo import index_demo_gallery, provide_demo_data
from gateway.local_stack import LocalStack
from gateway.records import AgentView
from gateway.supervisor import ServiceStatus
from shared.settings import load_settings

_LOOK_S = 1.0
_LAST_BYTES = 2000
_COLOURS = {"ready": "green", "starting": "yellow", "restarting": "red", "failed": "red"}


def up(
    demo: Annotated[
        bool, typer.Option("--demo", help="with the demo's images as a gallery to search")
    ] = False,
    processes: Annotated[int, typer.Option(min=1, help="processes per agent type (and GPU)")] = 1,
    plain: Annotated[bool, typer.Option("--plain", help="lines instead of the live view")] = False,
) -> None:
    """All services on this machine, until Ctrl-C. A private Redis unless XR_REDIS_URL names one.

    Where the profile names `workers`, each visible GPU (CUDA_VISIBLE_DEVICES) gets one of each.
    """
    settings = load_settings()
    if demo:
        provide_demo_data(settings.data_root)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    stack = LocalStack(
        settings,
        processes=processes,
        redis_url=settings.redis_url if "XR_REDIS_URL" in os.environ else None,
        redis_folder=settings.home / "redis",
        gateway_port=settings.gateway_port,
    )
    gpus = ", ".join(stack.gpus) or "none, the CPU works"
    output.notes.print(f"profile {settings.profile}, GPUs: {gpus}", highlight=False)
    with stack:
        with output.service_list() as shown:
            stack.wait_ready(shown, stop)
        output.console.print(f"gateway: {stack.gateway_url}   (Ctrl-C stops)", highlight=False)
        if demo and not stop.is_set():
            with Client(stack.gateway_url) as client:
                index_demo_gallery(client, stop)
            output.console.print('gallery "demo" can be searched', highlight=False)
        if plain or not output.console.is_terminal:
            _tell_changes(stack, stop)
        else:
            _show(stack, stop)


def _show(stack: LocalStack, stop: threading.Event) -> None:
    """A table that is drawn again every second, until told to stop."""
    with (
        Client(stack.gateway_url, timeout_s=_LOOK_S) as client,
        Live(console=output.console, auto_refresh=False) as live,
    ):
        while not stop.is_set():
            view = services_table(stack.supervisor.statuses(), _queues(client))
            live.update(view, refresh=True)
            stop.wait(_LOOK_S)


def _tell_changes(stack: LocalStack, stop: threading.Event) -> None:
    """For logs: a line whenever a service's state changes."""
    before = {status.name: status.state for status in stack.supervisor.statuses()}
    while not stop.is_set():
        for status in stack.supervisor.statuses():
            if status.state != before[status.name]:
                text = f"{status.name} is {status.state} (crashes: {status.crashes})"
                output.console.print(text, highlight=False, soft_wrap=True)
                before[status.name] = status.state
        stop.wait(_LOOK_S)


def services_table(
    statuses: Sequence[ServiceStatus], queues: Mapping[str, AgentView], now: str | None = None
) -> Table:
    """Every service with its state and the last line of its log; agents with their queues."""
    title = f"XR, {now or time.strftime('%H:%M:%S')}"
    table = Table(box=None, header_style="bold", pad_edge=False, title=title, expand=True)
    for name in ("service", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("pid", "crashes", "waiting", "pending", "dead"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("last line of the log", no_wrap=True, ratio=1)
    for status in statuses:
        colour = _COLOURS.get(status.state, "dim")
        served = [view for agent, view in queues.items() if agent in status.name.split("-")]
        figures = (
            (str(sum(getattr(view, name) for view in served)) if served else "")
            for name in ("waiting", "pending", "dead")
        )
        table.add_row(
            status.name,
            f"[{colour}]{status.state}",
            str(status.pid or ""),
            str(status.crashes),
            *figures,
            escape(last_line(status.log)),
        )
    return table


def last_line(log: Path) -> str:
    """Of a log that may be long, being written, or missing."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LAST_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return lines[-1].strip() if lines else ""


def _queues(client: Client) -> dict[str, AgentView]:
    try:
        return {view.agent: view for view in client.agents()}
    except (GatewayError, GatewayUnreachableError):
        return {}
