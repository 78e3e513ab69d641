"""The overlays as kustomize renders them; skipped where neither kubectl nor kustomize is there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = ("demo-cpu", "gpu", "keda")


def render(overlay: str) -> str:
    folder = str(ROOT / "k8s/overlays" / overlay)
    if shutil.which("kustomize"):
        command = ["kustomize", "build", folder]
    elif shutil.which("kubectl"):
        command = ["kubectl", "kustomize", folder]
    else:
        pytest.skip("rendering needs kustomize or kubectl")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def rendered(overlay: str) -> str:
    return render(overlay)


@pytest.fixture(scope="session")
def objects(rendered: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(rendered))
