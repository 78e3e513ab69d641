"""The vLLM backend on this machine's CPU, with small checkpoints."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from agents.backends.contract import ImageFile
from agents.backends.vllm import load

ON_CPU = {"enforce_eager": True, "block_size": 32, "enable_log_requests": False}
"""A prefix can be shared in whole blocks; 32 tokens is the smallest block vLLM has on a CPU."""


def on_cpu(checkpoint: Path, **options: Any) -> Any:
    """In float32, so that its answers can be compared with those of PyTorch on the same CPU."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    engine = ON_CPU | options.pop("engine", {})
    return load(str(checkpoint), dtype="float32", engine=engine, **options)


def image_file(path: Path) -> ImageFile:
    return ImageFile(path, hashlib.sha256(path.read_bytes()).hexdigest())
