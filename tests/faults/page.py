"""docs/reliability.md: words from page.md, tables from the runs that measured them."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from pathlib import Path

from shared import atomic_files

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
_TEMPLATE = Path(__file__).with_name("page.md")
_PLACE = re.compile(r"^<!-- (?P<name>[a-z]+) -->\n", re.MULTILINE)
_EMPTY = "*Not measured yet.*"


def measured_on(seed: int | None = None) -> str:
    """Commit, date and machine of a measurement, as one line."""
    parts = [
        f"commit {commit()}",
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        f"{os.cpu_count()} cores, {_processor()}",
        f"Python {platform.python_version()}",
        *([] if seed is None else [f"seed {seed}"]),
        f"load average before {os.getloadavg()[2]:.1f}",
    ]
    return " · ".join(parts)


def commit() -> str:
    """The commit checked out, and whether files differ from it; "unknown" without git."""
    head = _git("rev-parse", "--short=12", "HEAD")
    if not head:
        return "unknown"
    return (
        f"{head}, dirty" if _git("status", "--porcelain", "--", ":!docs/reliability.md") else head
    )


def write_section(name: str, text: str, page: Path = PAGE) -> Path:
    """Put a section's text on the page and leave the other sections as they are.

    A section stands between `<!-- name -->` and `<!-- /name -->`.
    """
    former = page.read_text() if page.is_file() else ""

    def filled(match: re.Match[str]) -> str:
        section = match["name"]
        content = text if section == name else _content(former, section) or _EMPTY
        return f"<!-- {section} -->\n{content.strip()}\n<!-- /{section} -->\n"

    template = _TEMPLATE.read_text()
    if f"<!-- {name} -->" not in template:
        raise ValueError(f"{_TEMPLATE} has no place for {name}")
    page.parent.mkdir(parents=True, exist_ok=True)
    atomic_files.write_bytes(page, _PLACE.sub(filled, template).encode())
    return page


def section(name: str, page: Path = PAGE) -> str:
    """What stands in a section now; empty where nothing was measured."""
    found = _content(page.read_text(), name) if page.is_file() else ""
    return "" if found == _EMPTY else found


def _content(page: str, section: str) -> str:
    found = re.search(rf"<!-- {section} -->\n(.*?)\n<!-- /{section} -->", page, re.DOTALL)
    return found[1] if found else ""


def _git(*arguments: str) -> str:
    try:
        completed = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return completed.stdout.strip() if completed.returncode == 0 else ""


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()
