"""`xr up --demo`: the demo's images are indexed once, and taken up again where that had failed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from gateway.client import Client
from gateway.commands.demo import index_demo_gallery
from gateway.records import BenchmarkView, GalleryView
from gateway.records.galleries import GalleryState


class Gateway:
    """Knows a gallery or none, and writes down what is asked of it."""

    def __init__(self, state: GalleryState | None) -> None:
        self.asked: list[str] = []
        self._galleries = [] if state is None else [_gallery(state)]

    def galleries(self) -> list[GalleryView]:
        return self._galleries

    def create_gallery(self, name: str, folder: str) -> GalleryView:
        self.asked.append(f"create {name} of {folder}")
        return _gallery("queued")

    def resume(self, benchmark_id: str) -> None:
        self.asked.append(f"resume {benchmark_id}")

    def follow(self, benchmark_id: str, **options: Any) -> Iterator[BenchmarkView]:
        self.asked.append(f"follow {benchmark_id}")
        for state in ("running", "finished"):
            yield BenchmarkView(
                id=benchmark_id, dataset="folder:demo", split="all", name="index",
                state=state,  # type: ignore[arg-type]
            )  # fmt: skip


def _gallery(state: GalleryState) -> GalleryView:
    return GalleryView(key="k", name="demo", state=state, benchmark_id="run")


@pytest.mark.parametrize(
    ("state", "asked"),
    [
        (None, ["create demo of demo", "follow run"]),
        ("indexing", ["follow run"]),
        ("failed", ["resume run", "follow run"]),
        ("ready", []),
    ],
)
def test_what_is_missing_is_done(state: GalleryState | None, asked: list[str]) -> None:
    gateway = Gateway(state)
    index_demo_gallery(cast(Client, gateway), threading.Event())
    assert gateway.asked == asked
    # and whoever is told to stop does not wait for the end
    stopped = threading.Event()
    stopped.set()
    index_demo_gallery(cast(Client, Gateway(None)), stopped)
