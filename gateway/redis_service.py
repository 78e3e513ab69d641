"""A private Redis as a service of the supervisor: `python -m gateway.redis_service FOLDER PORT`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from shared.errors import ConfigurationError
from shared.redis_server import PrivateRedis

_FORMER_ONE_ENDS_WITHIN_S = 10.0


def serve(folder: Path, port: int, patience_s: float = _FORMER_ONE_ENDS_WITHIN_S) -> int:
    """Become the server; returns an exit status only when that is not possible.

    The service's process is the server itself, so that whoever keeps the service keeps the server:
    a wrapper that is killed would leave it behind, on the port and in the folder of its successor.

    Args:
        patience_s: how long a former server, told to stop, may take to leave folder and port.
    """
    end = time.monotonic() + patience_s
    while True:
        try:
            PrivateRedis(folder, port).become()
        except ConfigurationError as error:
            if time.monotonic() >= end:
                sys.stderr.write(f"{error}\n")
                return 2
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(serve(Path(sys.argv[1]), int(sys.argv[2])))
