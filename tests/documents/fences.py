"""Fenced blocks of the documents, and the commands in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHELL, PYTHON, TOML = "sh", "python", "toml"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HERE_DOCUMENT = re.compile(r"<<'(\w+)'")
_FILE_NAME = re.compile(r"\A# ([\w-]+\.(?:py|toml))(?:\n|:)")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: relative to the repository.
        line: of the fence, from 1.
        file: the name in its first line, `# NAME.py`: the block is that file, and is not run.
    """

    page: str
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str:
        found = _FILE_NAME.match(self.text)
        return found[1] if found else ""


def pages() -> list[str]:
    """The documents whose commands are tested."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path.relative_to(ROOT).as_posix() for path in found]


def blocks_of(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found[1], found[2])
        for found in _FENCE.finditer(text)
    ]


def commands_of(block: Block) -> Iterator[str]:
    """Each command of a shell block: continued lines and here-documents whole, no comments."""
    lines = iter(block.text.splitlines())
    for line in lines:
        command = line
        while command.endswith("\\"):
            command = command[:-1].rstrip() + " " + next(lines).strip()
        opened = _HERE_DOCUMENT.search(command)
        if opened:
            for inner in lines:
                command += f"\n{inner}"
                if inner == opened[1]:
                    break
        elif not command.rstrip().endswith("\\"):
            command = re.sub(r"\s+# .*$|^# .*$", "", command)
        if command.strip():
            yield command.strip()
