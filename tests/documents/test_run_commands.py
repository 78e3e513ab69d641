"""The documents' commands run, one page after the other, against a small demo stack."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.cli import run as run_xr
from gateway.client import Client
from tests.documents.conftest import Place, finish
from tests.documents.fences import PYTHON, SHELL, Block, blocks_of, commands_of, pages
from tests.documents.not_run import reason

_TIMEOUT_S = 120.0


def runs_something(block: Block) -> bool:
    if block.language == SHELL:
        return any(not reason(command) for command in commands_of(block))
    return block.language == PYTHON


@pytest.mark.parametrize(
    "page", [page for page in pages() if any(map(runs_something, blocks_of(page)))]
)
def test_a_page_s_commands_run(page: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.folder)
    monkeypatch.setenv("XR_GATEWAY_URL", place.url)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    page_runs = _Page(place)
    for block in blocks_of(page):
        if block.file:
            Path(block.file).write_text(block.text)
        elif block.language == PYTHON:
            exec(compile(page_runs.filled(block.text), block.where, "exec"), {})
        elif block.language == SHELL:
            for command in commands_of(block):
                if not reason(command):
                    print(f"{block.where}$ {command}")
                    page_runs.run(command)


class _Page:
    """Runs one page's commands in their order. `<id>` is the one that was answered last."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._last_id = ""

    def run(self, command: str) -> None:
        with Client(self._place.url) as client:
            filled = self.filled(command, client)
            words = _words_of_xr(filled)
            if words:
                assert run_xr(words) == 0, filled
                return
            answer = _shell(filled)
            self._last_id = _id_in(answer) or self._last_id
            if re.search(r"-X POST '?\S+/v1/benchmarks'? ", filled):
                finish(client, self._last_id)

    def filled(self, text: str, client: Client | None = None) -> str:
        """With this place's addresses, ids and names instead of the placeholders."""
        place = self._place
        first = place.first
        if client is not None and re.search(r"cancel ID|resume", text):
            first = _stopped_run(client)
        for placeholder, value in {
            "http://127.0.0.1:8000": place.url,
            "/path/to/pictures": str(place.pictures),
            ".venv/bin/": "",
            "<key or name>": "demo",
            "<key>": "demo",
            '{"gallery": "holidays", "mod': '{"gallery": "demo", "mod',  # the reference's example
            "<one of its images>": place.image_id,
            "<image_id>": place.image_id,
            "<query_id>": "q0000",
            "<benchmark_id>": first,
            "<run_id>": first,
            "<other_id>": place.second,
            "<upload_id>": self._last_id,
            "<id>": self._last_id,
            "[KEY]": place.database,
        }.items():
            text = text.replace(placeholder, value)
        words = {"ID": first, "RUN": first, "OTHER": place.second, "KEY": place.database}
        return re.sub(
            r"(?<![\w$<-])(ID|RUN|OTHER|KEY)(?![\w>])", lambda found: words[found[1]], text
        )


def _stopped_run(client: Client) -> str:
    """One that was cancelled before it came far."""
    submitted = client.submit("demo", "val", name="stopped", limit=2, knobs={"top_k": 3})
    client.cancel(submitted.id)
    finish(client, submitted.id)
    return submitted.id


def _words_of_xr(command: str) -> list[str]:
    """The arguments of a plain `xr` command, which needs no process of its own; else none."""
    words = shlex.split(command) if "\n" not in command else []
    plain = words[:1] == ["xr"] and not {"|", "&&", ">"} & set(words)
    return words[1:] if plain else []


def _shell(command: str) -> str:
    """Standard output. curl fails on statuses that are errors, and says what was answered."""
    done = subprocess.run(
        ["bash", "-e", "-c", command.replace("curl -s", "curl -sS --fail-with-body")],
        capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False,
    )  # fmt: skip
    told = f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert done.returncode == 0, told
    return done.stdout


def _id_in(answer: str) -> str:
    try:
        document = json.loads(answer)
    except ValueError:
        return ""
    return str(document.get("id", "")) if isinstance(document, Mapping) else ""
