"""Measures every skill of the demo checkpoints on held-out scenes and prints one table."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from agents.training import measure_text, measure_vision

SHIPPED = Path(__file__).parent.parent / "checkpoints" / "demo"


def main() -> None:
    """Command line: one figure a line, each in 0..1."""
    parser = argparse.ArgumentParser(prog="python -m agents.training.measure", description=__doc__)
    parser.add_argument("--checkpoints", type=Path, default=SHIPPED)
    parser.add_argument("--count", type=int, default=300, help="held-out scenes and changes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = {
        **measure_vision.measure(arguments.checkpoints / "vision", arguments.count),
        **measure_text.measure(arguments.checkpoints / "text", arguments.count),
    }
    for name, value in figures.items():
        print(f"{name:60} {value:.3f}")


if __name__ == "__main__":
    main()
