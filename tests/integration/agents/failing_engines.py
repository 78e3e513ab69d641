"""Engines that fail in the ways real ones do, for profiles by dotted path."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from agents.backends.contract import ChoiceRequest
from agents.backends.zero_cost import ZeroCostLanguageModel
from shared.errors import ItemError

Chosen = list[tuple[float, ...] | ItemError]
GO_ON = "XR_TEST_GO_ON"
"""Names the file whose appearance lets a stuck model go on."""


class AcceleratorError(RuntimeError):
    """Named as torch names the loss of a GPU context."""


class OutOfMemoryError(RuntimeError):
    """Named as torch names a batch that is too large for the GPU."""


class Troubled(ZeroCostLanguageModel):
    """Passes warm-up, and has trouble with questions about certain words."""

    def choose(self, requests: Sequence[ChoiceRequest]) -> Chosen:
        text = " ".join(request.prompt.text for request in requests)
        if "doom" in text:
            raise AcceleratorError("device-side assert")
        if "poison" in text:
            os.kill(os.getpid(), signal.SIGKILL)
        while "stuck" in text and not Path(os.environ[GO_ON]).exists():
            time.sleep(0.02)
        if len(requests) > 3 or "huge" in text:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return super().choose(requests)


def troubled() -> Troubled:
    return Troubled()


def fails_every_item() -> ZeroCostLanguageModel:
    return ZeroCostLanguageModel(failing="e")
