"""`xr scale`: replicas of the agents on this host, by hand or by the length of their queues."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer
from rich.table import Table

from gateway.autoscaling import Autoscaler, Bounds
from gateway.client import Client, GatewayError, GatewayUnreachableError
from gateway.commands import output
from gateway.commands.options import GatewayOption, JsonOption, connect
from gateway.compose_host import ComposeHost, NoDockerError, ServiceReplicas
from shared.errors import ConfigurationError

_WANTED = re.compile(r"^([a-z][a-z0-9-]*)=(\d{1,3})(?:\.\.(\d{1,3}))?$")
ProjectOption = Annotated[
    str, typer.Option(envvar="COMPOSE_PROJECT_NAME", help="name of the compose project")
]


def scale(
    wanted: Annotated[
        list[str] | None,
        typer.Argument(metavar="[AGENT=N...]", help="e.g. question=3; with --auto question=1..4"),
    ] = None,
    auto: Annotated[
        bool, typer.Option("--auto", help="follow the queues until Ctrl-C, between the bounds")
    ] = False,
    every: Annotated[float, typer.Option(min=0.5, help="seconds between two looks")] = 5.0,
    project: ProjectOption = "xr",
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replicas of a compose project's agents on this host. Those that go finish their batch first.

    Without arguments: how many there are.
    """
    asked = [_parse(one, bounds=auto) for one in wanted or ()]
    if auto and not asked:
        raise ConfigurationError("--auto needs agents and their bounds: question=1..4")
    with ComposeHost(project) as host:
        if auto:
            _follow_queues(host, asked, every, gateway)
        for name, count in asked:
            host.scale(host.service_of(name), count.least, _tell)
        services = host.services()
    if as_json:
        output.print_json([vars(service) for service in services])
    else:
        output.console.print(replicas_table(services))


def replicas(project: str) -> tuple[list[ServiceReplicas], str]:
    """The project's services, and why they cannot be told where Docker does not answer."""
    try:
        with ComposeHost(project) as host:
            return host.services(), ""
    except NoDockerError as error:
        return [], str(error)


def replicas_table(services: Sequence[ServiceReplicas]) -> Table:
    """One row per service of the project."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("service")
    for name in ("running", "healthy", "stopped"):
        table.add_column(name, justify="right")
    table.add_column("serves")
    for one in services:
        counts = (str(count) for count in (one.running, one.healthy, one.stopped))
        table.add_row(one.service, *counts, ", ".join(one.agents))
    return table


def _parse(text: str, bounds: bool) -> tuple[str, Bounds]:
    """ "question=3", or "question=1..4" where bounds are asked for."""
    found = _WANTED.match(text)
    if found is None or (found[3] is None) == bounds or int(found[3] or found[2]) < int(found[2]):
        form = "question=1..4 with --auto, least first" if bounds else "question=3"
        raise ConfigurationError(f"{text!r}: write it as {form}")
    return found[1], Bounds(int(found[2]), int(found[3] or found[2]))


def _follow_queues(
    host: ComposeHost, asked: Sequence[tuple[str, Bounds]], every_s: float, gateway: str | None
) -> NoReturn:
    scalers = {host.service_of(name): Autoscaler(bounds) for name, bounds in asked}
    _tell(f"following the queues of {', '.join(scalers)}, a look every {every_s:g} s; Ctrl-C stops")
    with connect(gateway) as client:
        while True:
            _adjust(host, scalers, client)
            time.sleep(every_s)


def _adjust(host: ComposeHost, scalers: dict[str, Autoscaler], client: Client) -> None:
    """One look. Where the queues cannot be told, everything stays as it is."""
    try:
        queues = {view.agent: view for view in client.agents()}
    except (GatewayError, GatewayUnreachableError) as error:
        _tell(f"the queues are unknown, nothing is changed: {error}")
        return
    services = {one.service: one for one in host.services()}
    for name, scaler in scalers.items():
        service = services.get(name)
        if service is None:
            _tell(f"{name} has no container any more")
            continue
        # A service of several agents has the sum of their work.
        waiting = sum(queues[agent].waiting for agent in service.agents if agent in queues)
        pending = sum(queues[agent].pending for agent in service.agents if agent in queues)
        count = scaler.wanted(time.monotonic(), service.running, waiting, pending)
        if count != service.running:
            _tell(f"{name}: {waiting} wait, {pending} in hand: {service.running} -> {count}")
            host.scale(name, count, _tell)


def _tell(text: str) -> None:
    output.notes.print(text, highlight=False, soft_wrap=True)
