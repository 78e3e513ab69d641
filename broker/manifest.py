"""The manifest of a run: everything one needs to know to read its numbers, or to run it again."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from broker.agents_roster import Identity
from broker.evaluation import deviations
from broker.query_state import STATE_VERSION
from broker.run_store import RunRequest
from shared.datasets import Benchmark
from shared.knobs import Knobs, to_mapping
from shared.settings import Settings

SCHEMA_VERSION = 1
BINDING = ("dataset", "split", "queries", "knobs", "protocol", "agents", "gallery", "database")
"""What must be the same at the beginning and at the end of a run."""

_PACKAGES = ("xr-retrieval", "redis", "rq", "msgpack", "msgspec", "numpy", "pillow")


def describe_run(
    request: RunRequest,
    benchmark: Benchmark,
    queries: int,
    knobs: Knobs,
    settings: Settings,
    agents: Mapping[str, Identity],
    gallery: Mapping[str, Any],
    database: Mapping[str, Any],
) -> dict[str, Any]:
    """The manifest as JSON values.

    Args:
        queries: how many are asked (fewer than the data set has when the request limits them).
        agents: agent type -> what it serves, prompt digests included.
        gallery, database: key, size and number of failed images of each.
    """
    protocol = msgspec.to_builtins(benchmark.protocol)
    return {
        "schema_version": SCHEMA_VERSION,
        "state_version": STATE_VERSION,
        "dataset": benchmark.name,
        "split": benchmark.split,
        "queries": queries,
        "queries_in_data_set": len(benchmark.queries),
        "knobs": to_mapping(knobs),
        "protocol": protocol,
        "deviations": deviations(benchmark, knobs),
        "agents": {name: dict(identity) for name, identity in sorted(agents.items())},
        "gallery": dict(gallery),
        "database": dict(database),
        "profile": request.profile or settings.profile,
        "settings": settings.masked(),
        "restored": (
            {"run": request.restore, "skip_stages": request.skip_stages}
            if request.restore
            else None
        ),
        "seed": knobs.seed,
        "versions": versions(),
        "commit": commit(),
    }


def versions() -> dict[str, str]:
    """Python, the platform, and the packages this process works with."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit(root: Path | None = None) -> str:
    """The commit checked out in the source tree; empty when this is an installed package."""
    git = (root or Path(__file__).parent.parent) / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        if (git / name).is_file():
            return (git / name).read_text().strip()
        packed = (git / "packed-refs").read_text()
    except OSError:
        return ""
    match = re.search(rf"^([0-9a-f]{{40,64}}) {re.escape(name)}$", packed, re.MULTILINE)
    return match[1] if match else ""
