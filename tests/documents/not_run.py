"""Documented commands that no test runs, and why. They are checked all the same."""

from __future__ import annotations

import re
from typing import Final

NOT_RUN: Final[dict[str, str]] = {
    r"^make ": "made for people: minutes long, or run by the suite itself",
    r"docker compose|^docker ": "needs a Docker engine; tests/containers runs it",
    r"^kubectl |^helm ": "needs a cluster; tests/manifests validates what it would apply",
    r"\bxr (up|gateway|coordinator|agent)\b": "serves until it is stopped; the stack runs it",
    r"^xr scale": "needs a Docker engine; tests/containers runs it",
    r"--dataset CIRCO|--dataset CIRR|CIRCO:val|/CIRR_test1/": "needs data that nobody may copy",
    r"^xr gallery |gallery:products": "needs a reader's own files; test_live_galleries.py runs it",
    r"^xr index use KEY (qdrant|exact)": "needs a Qdrant; test_index_use.py runs it",
    r"/v1/galleries/<key>/(images' -F|removals|refresh|versions)": "takes a gallery with a name",
    r"-X DELETE .*/v1/galleries/": "takes away what the commands after it need",
    r"/v1/galleries' .*pictures/2024": "needs that folder; the guide to own images makes a gallery",
    r"/dead-letters": "there is none that could be retried",
    r"/submissions/<name>": "the demo has no evaluation server",
}
"""Pattern of a command -> the reason."""


def reason(command: str) -> str:
    """Why a command is not run; empty = it is."""
    return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, command)), "")
