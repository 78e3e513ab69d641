"""Names exactly which weights and which library versions an engine answers with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_BLOCK_BYTES = 1 << 20


def folder_digest(folder: Path) -> str:
    """sha256 hex over the names and bytes of a checkpoint folder's files, in name order."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as opened:
            while block := opened.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def package_versions(names: Iterable[str]) -> str:
    """ "name==version" of the installed packages, separated by spaces."""
    found = []
    for name in names:
        try:
            found.append(f"{name}=={version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} absent")
    return " ".join(found)
