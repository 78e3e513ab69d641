"""`xr gateway`, `xr coordinator` and `xr agent`: the services of the system."""

from __future__ import annotations

import os
import socket
import sys
from typing import Annotated, NoReturn

import msgspec
import typer

from gateway.commands import output
from shared import tracing
from shared.errors import ConfigurationError
from shared.logs import log_to_stderr
from shared.settings import load_settings


def gateway(
    host: Annotated[str | None, typer.Option(help="[default: XR_GATEWAY_HOST]")] = None,
    port: Annotated[int | None, typer.Option(help="[default: XR_GATEWAY_PORT]")] = None,
) -> None:
    """Serve the HTTP API. SIGTERM: it drains, then ends with status 0."""
    import uvicorn

    from gateway.app import create_app
    from gateway.redis_client import gateway_redis
    from gateway.server import DrainingServer

    settings = load_settings()
    if host:  # it also says whether API keys are asked for
        settings = msgspec.structs.replace(settings, gateway_host=host)
    log_to_stderr(settings.log_level, also=("uvicorn",))
    tracing.set_up("gateway", settings.otlp_endpoint)
    app = create_app(settings, gateway_redis(settings))
    listening = listen(settings.gateway_host, settings.gateway_port if port is None else port)
    config = uvicorn.Config(
        app,
        log_config=None,  # the lines are those of `shared.logs`
        access_log=False,
        timeout_graceful_shutdown=max(1, round(settings.grace_s)),
    )
    address, chosen_port = listening.getsockname()[:2]
    output.notes.print(f"gateway on http://{address}:{chosen_port}", highlight=False)
    with listening:
        server = DrainingServer(config, app.state.services.draining, settings.drain_s)
        server.run(sockets=[listening])
    tracing.shut_down()


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one.

    Raises: ConfigurationError: the port is in use or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(1024)
    except (OSError, OverflowError) as error:
        listening.close()
        raise ConfigurationError(
            f"cannot listen on {host} port {port} ({error}): "
            "choose another with --port or XR_GATEWAY_PORT"
        ) from error
    return listening


def coordinator() -> None:
    """Run benchmark jobs (becomes `python -m broker`)."""
    load_settings()  # a wrong setting is told before anything heavy is loaded
    _become("broker")


def agent(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="imagination, similarity, question")
    ],
) -> None:
    """Serve one or several agents from one process (becomes `python -m agents NAME...`)."""
    load_settings()
    _become("agents", *names)


def _become(package: str, *arguments: str) -> NoReturn:
    """Replace this process, so that signals and exit status are the service's own."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", package, *arguments])  # noqa: S606
