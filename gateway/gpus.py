"""Which GPUs the processes of this machine may use."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping

from shared.errors import ConfigurationError

_ANSWER_WITHIN_S = 30.0


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Names of the visible GPUs, as CUDA_VISIBLE_DEVICES takes them; empty = the CPU works.

    CUDA_VISIBLE_DEVICES counts, as CUDA reads it: what follows an empty or negative entry is not
    visible. Without it all GPUs are, that nvidia-smi lists; without nvidia-smi there is none.

    Raises: ConfigurationError: nvidia-smi is there, but the driver does not answer.
    """
    if "CUDA_VISIBLE_DEVICES" in environment:
        visible: list[str] = []
        for entry in environment["CUDA_VISIBLE_DEVICES"].split(","):
            name = entry.strip()
            if not name or name.startswith("-"):
                break
            visible.append(name)
        return visible
    program = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if program is None:
        return []
    try:
        listing = subprocess.run(  # noqa: S603  (a program of the driver, no input of anybody)
            [program, "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=_ANSWER_WITHIN_S, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        words = getattr(error, "stdout", "") or getattr(error, "stderr", "") or str(error)
        raise ConfigurationError(
            f"nvidia-smi fails ({words.strip()[:300]}): mend the NVIDIA driver, or set"
            " CUDA_VISIBLE_DEVICES= (empty) to work on the CPU"
        ) from error
    return [line.strip() for line in listing.splitlines() if line.strip()]
