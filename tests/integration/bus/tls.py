"""TLS in front of a server that has none, with certificates made for the test."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest


def self_made_certificates(folder: Path) -> tuple[Path, Path, Path]:
    """(CA, certificate, key) of a server called localhost; skips where there is no openssl."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("no openssl")
    ca, ca_key = folder / "ca.pem", folder / "ca.key"
    certificate, key, request = folder / "server.pem", folder / "server.key", folder / "server.csr"
    names = folder / "names"
    names.write_text("subjectAltName=DNS:localhost\n")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    commands: list[list[str | Path]] = [
        ["req", "-x509", *new_key, "-keyout", ca_key, "-out", ca, "-days", "2", "-subj", "/CN=ca"],
        ["req", *new_key, "-keyout", key, "-out", request, "-subj", "/CN=localhost"],
        [
            *("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial"),
            *("-out", certificate, "-days", "2", "-extfile", names),
        ],
    ]
    for words in commands:
        subprocess.run([program, *words], check=True, capture_output=True)
    return ca, certificate, key


@asynccontextmanager
async def tls_terminator(certificate: Path, key: Path, to_port: int) -> AsyncIterator[int]:
    """A TLS listener on 127.0.0.1 that passes everything on; yields its port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    ways: set[asyncio.Task[None]] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", to_port)
        there = asyncio.create_task(pass_on(reader, inner_writer))
        back = asyncio.create_task(pass_on(inner_reader, writer))
        ways.update((there, back))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
