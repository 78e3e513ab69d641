"""A gateway that is told to stop: red first, then closed, with nothing cut off, and status 0."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

DRAIN_S = 1.5


@pytest.fixture
def gateway(redis_url: str, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    environment = {
        **os.environ,
        "XR_REDIS_URL": redis_url,
        "XR_HOME": str(tmp_path),
        "XR_DRAIN_S": str(DRAIN_S),
        "XR_LOG_LEVEL": "warning",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "gateway.cli", "gateway", "--port", "0"],
        env=environment, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        told = re.search(r"http://\S+", process.stderr.readline())
        assert told is not None
        yield process, told[0]
        process.kill()


def test_sigterm_turns_readyz_red_finishes_what_is_under_way_and_ends_with_0(
    gateway: tuple[subprocess.Popen[str], str],
) -> None:
    # Given a request whose body has arrived by half
    process, url = gateway
    wait_for(url)
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as slow:
        body = b'{"dataset": "cirrus", "split": "val"}'
        head = f"POST /v1/benchmarks HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        slow.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body[:10])

        # When the gateway is told to stop
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)

        # Then it says so, and still answers
        while not (answer := httpx.get(f"{url}/readyz", timeout=30).json())["draining"]:
            assert time.monotonic() - began < DRAIN_S
        assert "told to stop" in answer["reasons"][0]
        assert answer["redis"] is True
        assert httpx.get(f"{url}/v1/benchmarks", timeout=30).status_code == 200

        # until it takes no more, but finishes what it began
        while is_open(host, int(port)):
            assert time.monotonic() - began < DRAIN_S + 20
        assert time.monotonic() - began >= DRAIN_S
        assert process.poll() is None
        slow.sendall(body[10:])
        response = b""
        while more := slow.recv(65536):
            response += more
        assert b"422" in response.splitlines()[0]
        assert b"unknown data set" in response
    assert process.wait(30) == 0


def test_a_second_signal_ends_the_draining(gateway: tuple[subprocess.Popen[str], str]) -> None:
    process, url = gateway
    wait_for(url)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    while not httpx.get(f"{url}/readyz", timeout=30).json()["draining"]:
        assert time.monotonic() - began < DRAIN_S
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def wait_for(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            httpx.get(f"{url}/livez", timeout=30)
        except httpx.TransportError:
            assert time.monotonic() < deadline
        else:
            return


def is_open(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True
