"""One process of `make bench-similarity`: embeds JPEGs, and says what the model alone would take.

`python -m tests.benchmarks.embedding_case IMAGES`. ViT-B/32 has random weights: its speed does not
depend on them. Memory is watched with the demo's CLIP over IMAGES names of a few hundred files.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image

from agents.backends.contract import ImageFile
from agents.backends.open_clip import DEFAULT_ROWS, ClipModel, load
from tests.benchmarks.meters import peak_memory_mb

MODEL = "ViT-B-32"
_SMALL = Path(__file__).parents[2] / "agents/checkpoints/demo/clip"
_FILES, _SIZE_PX = 256, (640, 480)
_EMBEDDED, _REPEATS = 64, 3
_MESSAGE_IMAGES = 64


def main(images: int) -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as name:
        files = _write_pictures(Path(name))
        print(json.dumps(_speed(files[:_EMBEDDED]) | _memory(files, images)))


def _speed(files: list[ImageFile]) -> dict[str, Any]:
    rows = DEFAULT_ROWS["cpu"]
    model, _, preprocess = open_clip.create_model_and_transforms(MODEL)
    model = model.eval()
    tokenizer = open_clip.get_tokenizer(MODEL)
    clip = ClipModel(model, preprocess, tokenizer, device="cpu", rows=rows, identity={})
    pixels = torch.randn(rows, 3, 224, 224)
    whole_s, bare_s = [], []
    for repeat in range(_REPEATS + 1):
        began_s = time.perf_counter()
        with torch.inference_mode():
            for _ in range(0, len(files), rows):
                model.encode_image(pixels, normalize=True)
        middle_s = time.perf_counter()
        clip.embed_images(files)
        if repeat:  # the first one warms up
            bare_s.append(middle_s - began_s)
            whole_s.append(time.perf_counter() - middle_s)
    share = statistics.median(bare / whole for bare, whole in zip(bare_s, whole_s, strict=True))
    per_s = len(files) / statistics.median(bare_s)
    return {"model": MODEL, "bare_images_per_s": per_s, "images_per_s": per_s * share}


def _memory(files: list[ImageFile], images: int) -> dict[str, float]:
    """Peaks of this process, which holds ViT-B/32 too, while a small model embeds many images."""
    clip = load(str(_SMALL), device="cpu")
    first_mb, done, began_s = 0.0, 0, time.perf_counter()
    _forget_peak()
    while done < images:
        some = [files[(done + place) % len(files)] for place in range(_MESSAGE_IMAGES)]
        clip.embed_images(some)
        done += len(some)
        if done <= images // 10:
            first_mb = peak_memory_mb(os.getpid())
    return {
        "many": done,
        "many_per_s": done / (time.perf_counter() - began_s),
        "first_mb": first_mb,
        "peak_mb": peak_memory_mb(os.getpid()),
    }


def _forget_peak() -> None:
    """Begin the kernel's record of this process's peak anew."""
    Path("/proc/self/clear_refs").write_text("5")


def _write_pictures(folder: Path) -> list[ImageFile]:
    """JPEGs of a photograph's size, with something like a photograph's detail."""
    draw = np.random.default_rng(0)
    files = []
    for place in range(_FILES):
        coarse = draw.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize(_SIZE_PX, Image.Resampling.BICUBIC)
        grain = draw.integers(-8, 9, (*_SIZE_PX[::-1], 3))
        noisy = np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8)
        path = folder / f"{place}.jpg"
        Image.fromarray(noisy).save(path, quality=90)
        files.append(ImageFile(path, ""))
    return files


if __name__ == "__main__":
    main(int(sys.argv[1]))
