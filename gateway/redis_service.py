"""A private Redis as a service of the supervisor: `python -m gateway.redis_service FOLDER PORT`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from shared.errors import ConfigurationError
from shared.redis_server import PrivateRedis


def serve(folder: Path, port: int) -> int:
    """Run the server until SIGTERM or its own end; returns the exit status."""
    # Blocked, so that no signal is lost between start and wait; a Redis that ends counts as one.
    awaited = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    server = PrivateRedis(folder, port)
    try:
        server.start()
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    while server.is_running():
        if signal.sigtimedwait(awaited, 1.0) is None:
            continue
        if server.is_running():
            server.stop()
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(serve(Path(sys.argv[1]), int(sys.argv[2])))
