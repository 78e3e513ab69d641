"""Collects nothing where vLLM is not installed; `make test-vllm` installs it."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("vllm") else ["test_*.py"]
