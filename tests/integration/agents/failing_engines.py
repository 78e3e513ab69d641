"""Engines that fail in the ways real ones do, for profiles by dotted path."""

from __future__ import annotations

from collections.abc import Sequence

from agents.backends.contract import ChoiceRequest
from agents.backends.zero_cost import ZeroCostLanguageModel
from shared.errors import ItemError


class AcceleratorError(RuntimeError):
    """Named as torch names the loss of a GPU context."""


class LosesItsDevice(ZeroCostLanguageModel):
    """Passes warm-up, then loses its device at the first question about a doom."""

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[tuple[float, ...] | ItemError]:
        if any("doom" in request.prompt.text for request in requests):
            raise AcceleratorError("device-side assert")
        return super().choose(requests)


def loses_its_device() -> LosesItsDevice:
    return LosesItsDevice()


def fails_every_item() -> ZeroCostLanguageModel:
    return ZeroCostLanguageModel(failing="e")
