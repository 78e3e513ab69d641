"""Read-outs that teach the vision model's hidden states densely while it is trained.

A Yes or No teaches one bit per example. These linear heads ask on the way: which cells have the
attribute a word names, which match the whole question, what a change does to each cell, where a
candidate differs from the reference, where it agrees with the change. Afterwards they are thrown
away.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from agents.training.optimisation import IGNORED
from agents.training.vision_examples import Example
from shared.demo_world.scene import BACKGROUNDS, POSITIONS

_CELLS: Final = len(POSITIONS)
_FATES: Final = 5
_DIFFERENCES: Final = 6


class VisionGuidance(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Heads on hidden states of chosen layers; `layers` counts the model's blocks (at least 3).

    Words, differences and the cell that a token of an answer is about are read two blocks before
    the end, matches and fates one before, agreement at the end: later blocks can then build on
    what earlier ones had to work out.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.word_layer, self.match_layer = layers - 2, layers - 1
        self.word_head = nn.Linear(width, _CELLS)
        self.match_head = nn.Linear(width, _CELLS)
        self.fate_head = nn.Linear(width, _CELLS * _FATES + len(BACKGROUNDS))
        self.agree_head = nn.Linear(width, _CELLS + 1)
        self.differ_head = nn.Linear(width, _DIFFERENCES)
        self.pointer_head = nn.Linear(width, _CELLS)

    def losses(self, hidden: tuple[Tensor, ...], examples: list[Example]) -> dict[str, Tensor]:
        """Mean losses by name; `hidden[i]` is float (rows, length, width) after block i."""
        places = _Places()
        for row, example in enumerate(examples):
            start = len(example.opening)
            # The tokens of the second picture, its end behind them.
            for cell, labels in enumerate(example.differs):
                places.add("differ", row, start - 1 - _CELLS + cell, labels)
            for turn in example.turns:
                last = start + len(turn.prompt) - 1
                for position, cells in turn.words:
                    places.add("word", row, start + position, cells)
                for position, cell in turn.pointers:
                    places.add("pointer", row, start + position, [cell])
                places.add("match", row, last, turn.matches)
                places.add("fate", row, last, turn.fates)
                places.add("agree", row, last, turn.agrees)
                start += len(turn.prompt) + len(turn.answer) - 1
        losses = {}
        for name, layer, head in (
            ("word", self.word_layer, self.word_head),
            ("differ", self.word_layer, self.differ_head),
            ("pointer", self.word_layer, self.pointer_head),
            ("match", self.match_layer, self.match_head),
            ("fate", self.match_layer, self.fate_head),
            ("agree", len(hidden) - 1, self.agree_head),
        ):
            if name in places.labels:
                rows, positions, labels = places.of(name)
                output = head(hidden[layer][rows, positions].float())
                losses[name] = _LOSSES.get(name, _binary_loss)(output, labels)
        return losses


class _Places:
    """Collects where each head has something to learn."""

    def __init__(self) -> None:
        self.rows: dict[str, list[int]] = {}
        self.positions: dict[str, list[int]] = {}
        self.labels: dict[str, list[list[int]]] = {}

    def add(self, name: str, row: int, position: int, labels: list[int]) -> None:
        if labels:
            self.rows.setdefault(name, []).append(row)
            self.positions.setdefault(name, []).append(position)
            self.labels.setdefault(name, []).append(labels)

    def of(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        return (
            torch.tensor(self.rows[name]),
            torch.tensor(self.positions[name]),
            torch.tensor(self.labels[name]),
        )


def _binary_loss(output: Tensor, labels: Tensor) -> Tensor:
    known = labels != IGNORED
    return nn.functional.binary_cross_entropy_with_logits(output[known], labels[known].float())


def _fate_loss(output: Tensor, labels: Tensor) -> Tensor:
    cells, background = output.split([_CELLS * _FATES, len(BACKGROUNDS)], -1)
    of_cells = nn.functional.cross_entropy(
        cells.reshape(-1, _FATES), labels[:, :_CELLS].reshape(-1)
    )
    return of_cells + 0.2 * nn.functional.cross_entropy(background, labels[:, _CELLS])


def _pointer_loss(output: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output, labels[:, 0])


_LOSSES: Final = {"fate": _fate_loss, "pointer": _pointer_loss}
