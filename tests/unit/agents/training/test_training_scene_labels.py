"""Class labels of scenes and the read-outs that learn them."""

from __future__ import annotations

import torch

from agents.training.optimisation import IGNORED
from agents.training.scene_labels import SceneReadout, scene_labels
from shared.demo_world.scene import Group, Scene

SCENE = Scene((Group(2, "large", "dotted", "green", "star", "right"),), "black")


def test_labels_name_the_group_in_its_cell_and_nothing_elsewhere() -> None:
    (labels,) = scene_labels([SCENE])
    cells = labels[:-1].view(9, 6).tolist()
    assert cells[5] == [1, 1, 1, 2, 1, 3]
    assert cells[0] == [0, *[IGNORED] * 5]
    assert labels[-1] == 2


def test_a_readout_learns_the_labels_of_features_that_tell_them() -> None:
    torch.manual_seed(0)
    features, labels = torch.randn(1, 9, 16), scene_labels([SCENE])
    readout = SceneReadout(16, cells_apart=True)
    optimiser = torch.optim.Adam(readout.parameters(), 0.1)
    first = readout.loss(features, labels).item()
    for _ in range(40):
        optimiser.zero_grad()
        readout.loss(features, labels).backward()
        optimiser.step()
    last, shares = readout.loss_and_accuracies(features, labels)
    assert last.item() < 0.2 * first
    assert shares == [1.0] * 7
