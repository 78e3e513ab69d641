"""The `xr` command: messages and exit statuses, and a gateway without Redis as a process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.cli import run
from gateway.client import Client, GatewayError, GatewayUnreachableError

_STARTS_WITHIN_S = 60.0  # on a machine that is busy otherwise
NOWHERE = "redis://127.0.0.1:1/0"


def xr(monkeypatch: pytest.MonkeyPatch, *arguments: str, **environment: str) -> int:
    """One command line in this process; returns its exit status."""
    monkeypatch.setenv("COLUMNS", "200")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return run(arguments)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_port_in_use_is_named_with_the_way_out(
    taken_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert xr(monkeypatch, "gateway", XR_GATEWAY_PORT=str(taken_port)) == 2
    told = capsys.readouterr().err
    assert f"port {taken_port}" in told
    assert "--port or XR_GATEWAY_PORT" in told


@pytest.mark.parametrize(
    ("arguments", "environment", "status", "words"),
    [
        (["bench"], {}, 2, "--dataset"),
        (["bench", "--dataset", "demo", "--knob", "top_k"], {}, 2, "name=value"),
        (["status"], {"XR_GATEWAY_URL": "http://127.0.0.1:1"}, 1, "no gateway answers"),
        (["status"], {"XR_GATEWAY_PORT": "x"}, 2, "gateway_port"),
        (["gateway"], {"XR_LOG_LEVEL": "loud"}, 2, "XR_LOG_LEVEL"),
        (["gateway", "--port", "0"], {"XR_REDIS_URL": "file:x"}, 2, "XR_REDIS_URL"),
        (["demo-data", "--out", "/"], {}, 2, "exists already"),
    ],
)
def test_errors_are_one_clear_message_with_their_exit_status(
    arguments: list[str],
    environment: dict[str, str],
    status: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert xr(monkeypatch, *arguments, **environment) == status
    told = capsys.readouterr()
    assert words in told.err
    assert "Traceback" not in told.err
    assert told.out == ""


def test_a_gateway_without_redis_answers_503_and_ends_on_sigterm(tmp_path: Path) -> None:
    # Given a gateway whose Redis is not there
    port = free_port()
    environment = {
        **os.environ,
        "XR_REDIS_URL": NOWHERE,
        "XR_HOME": str(tmp_path),
        "XR_DATA_ROOT": str(tmp_path),
        "XR_GATEWAY_PORT": str(port),
    }
    command = [sys.executable, "-m", "gateway.cli", "gateway"]
    with (
        subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process,
        Client(f"http://127.0.0.1:{port}") as client,
    ):
        try:
            readiness = wait_for(client)
            # Then it says what is missing
            assert (readiness.ready, readiness.redis) == (False, False)
            with pytest.raises(GatewayError, match="Redis cannot be reached") as refused:
                client.agents()
            assert refused.value.problem.status == 503
            # and goes on
            assert httpx.get(f"{client.url}/livez").status_code == 200
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(_STARTS_WITHIN_S) in (0, -signal.SIGTERM)


def wait_for(client: Client):  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + _STARTS_WITHIN_S
    while True:
        try:
            return client.readiness()
        except GatewayUnreachableError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
