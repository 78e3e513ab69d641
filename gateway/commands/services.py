"""`xr gateway`, `xr coordinator`, `xr agent` and `xr up`: the services of the system."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from typing import Annotated, NoReturn

import typer

from gateway.commands import output
from shared.errors import ConfigurationError
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
    app = create_app(settings, gateway_redis(settings))
    listening = listen(
        host or settings.gateway_host, settings.gateway_port if port is None else port
    )
    config = uvicorn.Config(
        app,
        log_level=settings.log_level,
        access_log=False,
        timeout_graceful_shutdown=max(1, round(settings.grace_s)),
    )
    address, chosen_port = listening.getsockname()[:2]
    output.notes.print(f"gateway on http://{address}:{chosen_port}", highlight=False)
    with listening:
        server = DrainingServer(config, app.state.services.draining, settings.drain_s)
        server.run(sockets=[listening])


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


def up(
    processes: Annotated[int, typer.Option(min=1, help="processes per agent type")] = 1,
) -> None:
    """All services on this machine, until Ctrl-C. A private Redis unless XR_REDIS_URL names one."""
    from gateway.local_stack import LocalStack

    settings = load_settings()
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
    with stack, output.service_list() as shown:
        stack.wait_ready(shown, stop)
        output.console.print(f"gateway: {stack.gateway_url}   (Ctrl-C stops)", highlight=False)
        stop.wait()


def _become(package: str, *arguments: str) -> NoReturn:
    """Replace this process, so that signals and exit status are the service's own."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", package, *arguments])  # noqa: S606
