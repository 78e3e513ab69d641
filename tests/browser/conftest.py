"""A demo stack with two small galleries, and headless Chromium on its page.

Collected only where the `browser` extra is installed and Chromium is there; `make test-browser`
sees to both.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gateway.client import Client
from gateway.local_stack import LocalStack
from shared.demo_world.benchmark import build, write
from shared.settings import Settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_WANTED = bool(os.environ.get("XR_BROWSER_TESTS"))
collect_ignore_glob = [] if _WANTED and importlib.util.find_spec("playwright") else ["test_*.py"]

ARTEFACTS = Path(__file__).resolve().parents[2] / "build" / "browser"
"""Screenshots and the report of the last run."""
QUERIES, IMAGES, TOP_K = 12, 60, 10
SHAPES = 20
MAKERS = ("Acme", "Nadir", "Zenith")
"""Of the images of the gallery "shapes", in turn."""


def chromium() -> str:
    """The system's browser."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.exit("Chromium is missing: `apt-get install chromium`, then `make test-browser`", 2)
    return found


@dataclass(frozen=True)
class Stack:
    """The running system, two finished runs of it, and a gallery "shapes" with metadata."""

    url: str
    home: Path
    data: Path
    first: str
    second: str


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    folder = Path(tempfile.mkdtemp(prefix="xr-browser-"))
    write(build(seed=3, n_queries=QUERIES, n_gallery=IMAGES), folder / "data" / "demo")
    _write_shapes(folder / "data")
    settings = Settings(home=folder / "home", data_root=folder / "data")
    with LocalStack(settings) as running, Client(running.gateway_url) as client:
        running.wait_ready()
        _finished(client, client.create_gallery("shapes", "shapes").benchmark_id)
        runs = [
            _run(client, name, knobs)
            for name, knobs in (
                ("whole", {"top_k": TOP_K, "baselines": True}),
                ("one-question", {"top_k": TOP_K, "num_questions": 1}),
            )
        ]
        yield Stack(running.gateway_url, settings.home, settings.data_root, *runs)
    shutil.rmtree(folder)


def _run(client: Client, name: str, knobs: dict[str, Any]) -> str:
    return _finished(client, client.submit("demo", "val", name=name, knobs=knobs).id)


def _finished(client: Client, run: str) -> str:
    *_, last = client.follow(run)
    assert last.state == "finished", last.error
    return last.id


def _write_shapes(data: Path) -> None:
    """A folder of some of the demo's images, of which makers, prices and sales are known."""
    folder = data / "shapes"
    folder.mkdir()
    lines = []
    for number, path in enumerate(sorted((data / "demo" / "images").glob("*.png"))[:SHAPES]):
        shutil.copy(path, folder / path.name)
        fields = {"maker": MAKERS[number % 3], "price": 5 + number, "sold": number % 4 == 0}
        lines.append(json.dumps({"image_id": path.name, "fields": fields}))
    (folder / "metadata.jsonl").write_text("\n".join([*lines, ""]))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=60_000)  # a busy machine is no failure
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=chromium(),
            args=["--no-sandbox", "--disable-dev-shm-usage"],  # CI containers run as root
        )
        yield started
        started.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the browser's console said: errors of scripts, of the policy, of missing files."""
    return []


@pytest.fixture
def page(stack: Stack, browser: Browser, complaints: list[str]) -> Iterator[Page]:
    """A page that fails the test when the console complained and nobody expected it."""
    context = browser.new_context(base_url=stack.url, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)
    opened = context.new_page()
    opened.on(
        "console",
        lambda message: (
            complaints.append(f"{message.text} {message.location}")
            if message.type == "error"
            else None
        ),
    )
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    yield opened
    context.close()
    assert not complaints, complaints


def keep_picture(page: Page, name: str) -> None:
    """A screenshot among the artefacts."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(600)  # pictures fade in, results settle
    page.screenshot(path=ARTEFACTS / f"{name}.png")


def check_accessible(page: Page) -> None:
    """No violation that axe-core calls serious or critical."""
    from axe_playwright_python.sync_playwright import Axe

    # axe is injected as a script of the page's own frame: not by <script>, which the policy forbids
    found = Axe().run(page)
    grave = [
        f"{one['id']} ({one['impact']}): {one['help']}: "
        + "; ".join(re.sub(r"\s+", " ", node["html"])[:160] for node in one["nodes"][:3])
        for one in found.response["violations"]
        if one["impact"] in ("serious", "critical")
    ]
    assert not grave, "\n".join(grave)
