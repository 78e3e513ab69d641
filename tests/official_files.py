"""Where the field's own annotation files lie, for the tests that read them; none are kept here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("XR_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
needs_official_files = pytest.mark.skipif(
    not DATA.is_dir(),
    reason=f"NO OFFICIAL ANNOTATION FILES in {DATA}: name their folder with XR_TEST_DATA",
)
