"""The probes of a process over HTTP, from a thread of its own: /livez, /readyz, /metrics."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from prometheus_client import CONTENT_TYPE_LATEST

from shared.errors import ConfigurationError

_SLOWEST_CLIENT_S = 5.0


class Health(Protocol):
    """What a process says about itself; asked from other threads."""

    def why_not_alive(self) -> list[str]:
        """Empty, or why only a restart helps."""
        ...

    def why_not_ready(self) -> list[str]:
        """Empty, or why no work should be expected of it now."""
        ...


class HealthServer(ThreadingHTTPServer):
    """Answers probes also while the process's main thread is busy.

    Args:
        exposition: the text of /metrics.
        port: listens on all interfaces; 0 = a free one, see `server_port`.
    Raises: ConfigurationError: the port is taken or not allowed.
    """

    daemon_threads = True

    def __init__(self, health: Health, exposition: Callable[[], bytes], port: int) -> None:
        self.health, self.exposition = health, exposition
        try:
            super().__init__(("", port), _Probe)
        except OSError as error:
            raise ConfigurationError(f"XR_HEALTH_PORT {port}: {error.strerror}") from error
        threading.Thread(target=self.serve_forever, name="health", daemon=True).start()


class _Probe(BaseHTTPRequestHandler):
    server: HealthServer
    timeout = _SLOWEST_CLIENT_S

    def do_GET(self) -> None:
        health = self.server.health
        if self.path == "/livez":
            self._verdict(health.why_not_alive())
        elif self.path == "/readyz":
            self._verdict(health.why_not_ready())
        elif self.path == "/metrics":
            self._answer(200, CONTENT_TYPE_LATEST, self.server.exposition())
        else:
            self._answer(404, "text/plain", b"there are /livez, /readyz and /metrics\n")

    def _verdict(self, reasons: list[str]) -> None:
        verdict = json.dumps({"ok": not reasons, "reasons": reasons}).encode()
        self._answer(503 if reasons else 200, "application/json", verdict)

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Probes come every few seconds: not a line each."""
