"""Trains all demo checkpoints from nothing into a folder, then measures them."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

STEPS: tuple[tuple[str, ...], ...] = (
    ("clip", "--out", "{out}/clip"),
    ("text", "--out", "{out}/text", "--steps", "3500"),
    ("vision", "--out", "{out}/vision", "--steps", "3400"),
    ("measure", "--checkpoints", "{out}"),
)
"""Modules of this package and their arguments, in order; each runs as a process of its own."""


def main() -> None:
    """Command line; exits with the status of the first step that fails."""
    parser = argparse.ArgumentParser(prog="python -m agents.training", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(".xr/checkpoints"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for module, *arguments in STEPS:
        words = [argument.format(out=out) for argument in arguments]
        print(f"== {module}: {' '.join(words)}", flush=True)
        command = [sys.executable, "-m", f"agents.training.{module}", *words]
        status = subprocess.run(command, check=False).returncode  # noqa: S603 - our own modules
        if status:
            sys.exit(status)


if __name__ == "__main__":
    main()
