"""Measures the demo's CLIP on the demo benchmark: does a scene's full caption find its image?"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agents.backends.contract import EmbeddingModel, FloatVector, ImageFile
from agents.backends.open_clip import load
from shared.demo_world.benchmark import build, write
from shared.errors import ItemError


def measure(
    model: EmbeddingModel, benchmark_folder: Path, cutoffs: Sequence[int] = (1, 5, 10, 50)
) -> dict[str, float]:
    """Recalls in 0..1 over a written benchmark's gallery.

    "caption": each gallery image's own full caption, its image the one right answer. "target":
    each query's full target caption, all of its targets right. Ties count against the model.
    """
    scenes = _lines(benchmark_folder / "scenes.jsonl")
    queries = _lines(benchmark_folder / "queries.jsonl")
    files = [line["file"] for line in _lines(benchmark_folder / "gallery.jsonl")]
    images = _matrix(model.embed_images([_image(benchmark_folder / str(file)) for file in files]))
    row_of = {str(scene["image_id"]): row for row, scene in enumerate(scenes)}
    captions = _matrix(model.embed_texts([str(scene["caption"]) for scene in scenes]))
    targets = _matrix(model.embed_texts([str(query["comprehensive"]) for query in queries]))
    own = [[row] for row in range(len(scenes))]
    wanted = [[row_of[str(name)] for name in _list(query["target_ids"])] for query in queries]
    measured = {"images": float(len(scenes)), "queries": float(len(queries))}
    for name, texts, rows in (("caption", captions, own), ("target", targets, wanted)):
        ranks = _best_ranks(texts @ images.T, rows)
        for cutoff in cutoffs:
            measured[f"{name} R@{cutoff}"] = float((ranks <= cutoff).mean())
    return measured


def _best_ranks(scores: FloatVector, rows: Sequence[Sequence[int]]) -> FloatVector:
    """The 1-based rank of the best right answer of each text."""
    ranks = [
        min(int((line >= line[row]).sum()) for row in right)
        for line, right in zip(scores, rows, strict=True)
    ]
    return np.asarray(ranks, np.float32)


def _matrix(vectors: Sequence[FloatVector | ItemError]) -> FloatVector:
    for vector in vectors:
        if isinstance(vector, ItemError):
            raise vector
    return np.stack([vector for vector in vectors if not isinstance(vector, ItemError)])


def _image(path: Path) -> ImageFile:
    return ImageFile(path, hashlib.sha256(path.read_bytes()).hexdigest())


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError(f"a list was expected, not {value!r}")
    return value


def main() -> None:
    """Command line: prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--benchmark", type=Path, default=None, help="written before; else seed 7")
    options = parser.parse_args()
    model = load(str(options.checkpoint))
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.benchmark or Path(temporary) / "benchmark"
        if options.benchmark is None:
            write(build(7), folder)
        for name, value in measure(model, folder).items():
            print(f"{name:16} {value:10.4g}")


if __name__ == "__main__":
    main()
