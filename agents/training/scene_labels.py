"""Scenes as class labels, and linear read-outs that learn them: guidance while training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from agents.training.optimisation import IGNORED
from shared.demo_world.scene import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    POSITION_INDEX,
    POSITIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Group,
    Scene,
)

CELL_CLASSES: Final = (2, len(COUNTS), len(SIZES), len(TEXTURES), len(COLOURS), len(SHAPES))
"""Classes of a cell's columns: is anything there, then what; see `group_labels`."""


def group_labels(group: Group | None) -> list[int]:
    """One class per column of CELL_CLASSES; IGNORED for slots unset, all of them in empty cells."""
    if group is None:
        return [0, *[IGNORED] * (len(CELL_CLASSES) - 1)]
    values = zip((COUNTS, SIZES, TEXTURES, COLOURS, SHAPES), group.values()[:-1], strict=True)
    return [1, *(IGNORED if value is None else names.index(value) for names, value in values)]


def scene_labels(scenes: Sequence[Scene]) -> Tensor:
    """int64 (scenes, 9 cells * 6 columns + 1): cells in reading order, the background last."""
    rows = []
    for scene in scenes:
        cells: list[list[int]] = [group_labels(None)] * len(POSITIONS)
        for group in scene.groups:
            cells[POSITION_INDEX[group.position]] = group_labels(group)
        classes = [label for cell in cells for label in cell]
        rows.append([*classes, BACKGROUNDS.index(scene.background)])
    return torch.tensor(rows)


class SceneReadout(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Linear read-outs of a scene's labels, used while training and then thrown away.

    With `cells_apart`, features are (rows, 9, width), a vector a cell, read by one shared head
    that also has to name the cell; otherwise (rows, width), all cells from one vector.
    """

    def __init__(self, width: int, cells_apart: bool) -> None:
        super().__init__()
        self.cells_apart = cells_apart
        outputs = sum(CELL_CLASSES)
        self.head = nn.Linear(width, outputs if cells_apart else outputs * len(POSITIONS))
        self.background_head = nn.Linear(width, len(BACKGROUNDS))
        self.place_head = nn.Linear(width, len(POSITIONS)) if cells_apart else None

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropies, summed over columns, background and place."""
        return self.loss_and_accuracies(features, labels)[0]

    def loss_and_accuracies(self, features: Tensor, labels: Tensor) -> tuple[Tensor, list[float]]:
        """Also the share of right classes: a cell's columns in order, then the background."""
        rows, cells = len(features), len(POSITIONS)
        outputs = self.head(features).view(rows, cells, -1).split(CELL_CLASSES, -1)
        wanted = labels[:, :-1].view(rows, cells, -1)
        total = features.sum() * 0.0
        accuracies = []
        for column, output in enumerate(outputs):
            truth = wanted[:, :, column]
            total = total + nn.functional.cross_entropy(
                output.flatten(0, 1), truth.flatten(), ignore_index=IGNORED
            )
            known = truth != IGNORED
            accuracies.append((output.argmax(-1) == truth)[known].float().mean().item())
        backdrop = self.background_head(features.mean(1) if self.cells_apart else features)
        total = total + nn.functional.cross_entropy(backdrop, labels[:, -1])
        accuracies.append((backdrop.argmax(-1) == labels[:, -1]).float().mean().item())
        if self.place_head is not None:
            places = torch.arange(cells).repeat(rows)
            named = self.place_head(features).flatten(0, 1)
            total = total + nn.functional.cross_entropy(named, places)
        return total, accuracies
