"""`python -m tests.fuzz`: every target for some seconds with a coverage-guided fuzzer (atheris).

Each target runs in a process of its own, its corpus in a temporary folder. What it finds is
written to the folder given with --findings; `python -m tests.fuzz TARGET --replay FILE` repeats it.
"""

from __future__ import annotations

import argparse
import logging
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_LONGEST_INPUT = 20_000
_LONGEST_S = 10
_MEMORY_MB = 2_048


def main() -> int:
    """Returns 1 when a target raised what it must not, took too long, or too much memory."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help="which ones [default: all]")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--replay", type=Path, help="run one input instead")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside is not None:
        return fuzz(options.targets[0], options.seconds, options.inside, options.findings)

    from tests.fuzz.targets import TARGETS, check, close

    try:
        if options.replay is not None:
            check(TARGETS[options.targets[0]], options.replay.read_bytes())
            return 0
        options.findings.mkdir(parents=True, exist_ok=True)
        failed = [
            name
            for name in options.targets or TARGETS
            if not run(name, options.seconds, options.findings)
        ]
    finally:
        close()
    if failed:
        print(f"failed: {', '.join(failed)}; the inputs are in {options.findings}/")
        return 1
    options.findings.rmdir()
    return 0


def run(name: str, seconds: int, findings: Path) -> bool:
    """One target in a process of its own; prints a line about it."""
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="xr-fuzz-corpus-") as corpus:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tests.fuzz", name, "--inside", corpus),
                *("--seconds", str(seconds), "--findings", str(findings)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        kept = len(list(Path(corpus).iterdir()))
    runs = re.findall(r"Done (\d+) runs|^#(\d+)\s", done.stdout, re.MULTILINE)
    executed = max((int(first or second) for first, second in runs), default=0)
    verdict = "ok" if done.returncode == 0 else "FAILED"
    elapsed_s = time.monotonic() - began_s
    print(
        f"{name:16} {verdict:6} {executed:>9,} inputs in {elapsed_s:5.1f} s, {kept} kept",
        flush=True,
    )
    if done.returncode:
        print(done.stdout[-3_000:])
    return done.returncode == 0


def fuzz(name: str, seconds: int, corpus: Path, findings: Path) -> int:
    """Fuzz one target in this process; ends it."""
    import atheris

    logging.disable()  # hostile input is logged by the thousand
    with atheris.instrument_imports(include=["agents", "broker", "gateway", "shared"]):
        from tests.fuzz.targets import TARGETS, check, close

    target = TARGETS[name]
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={seconds}",
            f"-max_len={_LONGEST_INPUT}",
            f"-timeout={_LONGEST_S}",
            f"-rss_limit_mb={_MEMORY_MB}",
            f"-artifact_prefix={findings}/{name}-",
            "-seed=1",
            str(corpus),
        ],
        lambda payload: check(target, payload),
    )
    try:
        atheris.Fuzz()  # leaves by exit
    finally:
        close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
