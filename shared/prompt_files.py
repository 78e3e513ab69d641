"""The prompts behind the digests that agents tell of: kept by agents, copied into every run.

<XR_HOME>/prompts/DIGEST.toml   the prompt of one skill, as its file had it
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from shared import atomic_files

_SKILL, _DIGEST = re.compile(r"[a-z_]{1,40}"), re.compile(r"[0-9a-f]{64}")
"""Both come from other processes, and become the names of files."""


def keep_prompt(folder: Path, digest: str, content: bytes) -> None:
    """Keep a prompt by its digest; one that is there already stays. Raises: OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_files.write_bytes(folder / f"{digest}.toml", content, keep_existing=True)


def kept_prompts(folder: Path, digests: Mapping[str, str]) -> dict[str, bytes]:
    """Skill -> its prompt's file, of those that are there.

    Args:
        digests: skill -> digest of its prompt, as agents tell it.
    """
    found = {}
    for skill, digest in digests.items():
        if not (_SKILL.fullmatch(skill) and _DIGEST.fullmatch(digest)):
            continue
        path = folder / f"{digest}.toml"
        if path.is_file():
            found[skill] = path.read_bytes()
    return found
