"""Every fuzz target, replayed with good and damaged inputs that hypothesis draws."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.fuzz import targets
from tests.fuzz.payloads import DEEP, LYING_LENGTHS
from tests.fuzz.targets import TARGETS, check


@pytest.fixture(scope="module", autouse=True)
def _folders() -> Iterator[None]:
    yield
    targets.close()


@pytest.mark.parametrize("name", TARGETS)
def test_a_good_input_is_read(name: str) -> None:
    for seed in TARGETS[name].seeds:
        if name != "rq_job":  # its seeds are hostile themselves
            TARGETS[name].read(seed)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("default")  # Pillow and numpy warn of what they then refuse
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), noise=st.binary(max_size=60), nested=st.booleans())
@example(seed=0, noise=b"", nested=False)
def test_any_bytes_are_read_or_refused(name: str, seed: int, noise: bytes, nested: bool) -> None:
    rng = random.Random(seed)
    content = bytearray(rng.choice(TARGETS[name].seeds))
    place = rng.randrange(len(content) + 1)
    inserted = rng.choice((*LYING_LENGTHS, *DEEP, b"[" * 100_000)) if nested else noise
    kept = content[place + rng.randrange(8) :] if rng.random() < 0.7 else b""
    check(TARGETS[name], bytes(content[:place] + inserted + kept))


def test_the_fuzzer_finds_what_a_target_must_not_raise(tmp_path: Path) -> None:
    """Else a fuzzer that does nothing would be as green as one that finds nothing."""
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is there for Python 3.11 only")
    program = (
        "import sys; from tests.fuzz import targets\n"
        "from tests.fuzz.__main__ import fuzz\n"
        "def read(payload):\n"
        "    if payload[:1] == b'x': raise KeyError('found')\n"
        "targets.TARGETS['broken'] = targets.Target(read, (), (b'y',))\n"
        f"sys.argv = ['fuzz']; fuzz('broken', 20, __import__('pathlib').Path({str(tmp_path)!r}),"
        f" __import__('pathlib').Path({str(tmp_path)!r}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode != 0
    assert "KeyError" in done.stdout + done.stderr
