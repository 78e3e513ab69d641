"""One process of `make bench-similarity`: ranks a gallery that lies on disk, and says what it took.

`python -m tests.benchmarks.ranking_cases FOLDER compare|memory|interactive|growth`
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shared.contracts.skills import GalleryRanked, ListKind, ListRequest, RankGallery
from shared.ranking import Ranked, decode_list, rank_galleries
from shared.ranking_layout import StoredMatrix

QUERIES, DEPTH, TEXT_WEIGHT = 64, 100, 0.15
_REPEATS = 5
_INTERACTIVE_QUERIES = 200
_BLOCK = 65_536
_SORTED_QUERIES = 4
_KINDS: tuple[ListKind, ...] = ("visual", "textual", "hybrid")
_LISTS = tuple(
    ListRequest(f"{text}.{kind}", kind, text) for text in ("v1", "v2", "aug") for kind in _KINDS
)

Matrix = npt.NDArray[np.float32]


class _Gallery(NamedTuple):
    image_embeddings: StoredMatrix
    caption_embeddings: StoredMatrix
    searchable: int


def write_matrices(folder: Path, rows: int, dimensions: int, seed: int) -> None:
    """Unit rows around 1000 centres, float16, as an image database has them."""
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((1000, dimensions), dtype=np.float32)
    for name in ("image", "caption"):
        path = folder / f"{name}_embeddings.npy"
        matrix = np.lib.format.open_memmap(path, "w+", np.float16, (rows, dimensions))
        for first in range(0, rows, _BLOCK):
            count = min(_BLOCK, rows - first)
            block = draw.standard_normal((count, dimensions), dtype=np.float32)
            block += centres[draw.integers(0, len(centres), count)]
            block /= np.linalg.norm(block, axis=1, keepdims=True)
            matrix[first : first + count] = block
        matrix.flush()


def main(folder: str, what: str) -> None:
    images, captions = (
        np.load(Path(folder) / f"{name}_embeddings.npy", mmap_mode="r")
        for name in ("image", "caption")
    )
    gallery = _Gallery(images, captions, len(images))
    print(json.dumps(_MEASURES[what](gallery)))


def _memory(gallery: _Gallery) -> dict[str, float]:
    texts = _texts(gallery, QUERIES)
    rank_galleries(_asked(texts), gallery)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    matrices_mb = (gallery.image_embeddings.nbytes + gallery.caption_embeddings.nbytes) / 1e6
    return {"peak_mb": peak_mb, "matrices_mb": matrices_mb, "beside_mb": peak_mb - matrices_mb}


def _interactive(gallery: _Gallery) -> dict[str, float]:
    asked = _asked(_texts(gallery, _INTERACTIVE_QUERIES))
    rank_galleries(asked[:1], gallery)
    times_ms = np.array([1000 * _timed(rank_galleries, [one], gallery) for one in asked])
    p50, p99 = np.percentile(times_ms, [50, 99])
    cores = os.cpu_count() or 1
    return {"p50_ms": p50, "p99_ms": p99, "queries": len(asked), "cores": cores}


def _growth(gallery: _Gallery) -> dict[str, object]:
    asked = _asked(_texts(gallery, QUERIES))
    sizes = [len(gallery.image_embeddings) >> shift for shift in (4, 3, 2, 1, 0)]
    seconds = [
        min(_timed(rank_galleries, asked, gallery._replace(searchable=size)) for _ in range(2))
        for size in sizes
    ]
    exponent, _ = np.polyfit(np.log(sizes), np.log(seconds), 1)
    return {"exponent": float(exponent), "seconds": list(zip(sizes, seconds, strict=True))}


def _compare(gallery: _Gallery) -> dict[str, float]:
    """Seconds of ranking, its ratio to the bare products, and other ways as multiples of it."""
    texts = _texts(gallery, QUERIES)
    asked = _asked(texts)
    images, captions = (np.array(matrix, np.float32) for matrix in gallery[:2])
    means = _means(texts)
    flat = texts.reshape(-1, texts.shape[2])
    ways: dict[str, Callable[[], object]] = {
        "ranked": lambda: rank_galleries(asked, gallery),
        "product": lambda: (_product(images, flat), _product(captions, flat)),
        "means_product": lambda: (_product(images, means), _product(captions, means)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    rank_galleries(asked, gallery)
    for _ in range(_REPEATS):
        for name, way in ways.items():
            seconds[name].append(_timed(way))
    ranked_s = statistics.median(seconds["ranked"])
    found = {
        "ranked_s": ranked_s,
        "to_product": _ratio(seconds["ranked"], seconds["product"]),
        "to_means_product": _ratio(seconds["ranked"], seconds["means_product"]),
    }
    share = QUERIES / _SORTED_QUERIES
    some = texts[:_SORTED_QUERIES]
    argsort_s = _timed(_argsort, images, captions, some) * share
    full_sort_s = _timed(_full_sort, images, captions, some) * share
    faiss_s, agree = _faiss(images, captions, texts, rank_galleries(asked, gallery))
    # Ranked once more beside them, so that a machine that is slower by now is so for both.
    beside_s = _timed(rank_galleries, asked, gallery)
    return found | {
        "argsort": argsort_s / beside_s,
        "full_sort": full_sort_s / beside_s,
        "faiss": faiss_s / beside_s,
        "faiss_agreement": agree,
    }


def _argsort(images: Matrix, captions: Matrix, texts: Matrix) -> None:
    """One product of the mean vectors for all queries, and numpy's sort of every list."""
    means = _means(texts)
    visual, textual = means @ images.T, means @ captions.T
    hybrid = (1 - TEXT_WEIGHT) * visual + TEXT_WEIGHT * textual
    for scores in (visual, textual, hybrid):
        for of_list in scores:
            np.argsort(-of_list)[:DEPTH]


def _full_sort(images: Matrix, captions: Matrix, texts: Matrix) -> None:
    """By query and list: every text multiplied, the mean of the scores, all of it sorted."""
    for of_query in texts:
        for some in (of_query[:3], of_query[3:], of_query):
            for weight in (0.0, 1.0, TEXT_WEIGHT):
                scores = np.zeros(len(images), np.float32)
                for text in some:
                    if weight < 1:
                        scores += (1 - weight) * (images @ text)
                    if weight > 0:
                        scores += weight * (captions @ text)
                scores /= len(some)
                np.argsort(-scores, kind="stable")


def _faiss(
    images: Matrix, captions: Matrix, texts: Matrix, ours: Sequence[object]
) -> tuple[float, float]:
    """Seconds of IndexFlatIP over images, captions and, for the hybrid lists, both side by side;
    and the share of our visual rows that it finds, too."""
    import faiss

    means = _means(texts)
    weighted = np.concatenate([(1 - TEXT_WEIGHT) * means, TEXT_WEIGHT * means], axis=1)
    taken_s, agree = 0.0, 0.0
    for which, vectors in (("image", means), ("caption", means), ("both", weighted)):
        index = faiss.IndexFlatIP(vectors.shape[1])
        if which == "both":
            for first in range(0, len(images), _BLOCK):
                some = slice(first, first + _BLOCK)
                index.add(np.concatenate([images[some], captions[some]], axis=1))
        else:
            index.add(images if which == "image" else captions)
        began_s = time.perf_counter()
        _, rows = index.search(vectors, DEPTH)
        taken_s += time.perf_counter() - began_s
        if which == "image":
            shares = []
            for place, answer in enumerate(ours):
                assert isinstance(answer, GalleryRanked)
                for text, ranked in enumerate(answer.lists[::3]):
                    same = np.isin(decode_list(ranked).rows, rows[3 * place + text])
                    shares.append(float(same.mean()))
            agree = statistics.mean(shares)
        del index
    return taken_s, agree


def _product(matrix: Matrix, vectors: Matrix) -> Matrix:
    """The bare product, the scores of one part of the gallery in memory at a time."""
    columns = np.ascontiguousarray(vectors.T)
    out = np.empty((min(_BLOCK, len(matrix)), len(vectors)), np.float32)
    for first in range(0, len(matrix), _BLOCK):
        block = matrix[first : first + _BLOCK]
        np.matmul(block, columns, out=out[: len(block)])
    return out


def _texts(gallery: _Gallery, queries: int) -> Matrix:
    """(queries, 4, dimensions): texts near some image, as imagined captions of a target are."""
    draw = np.random.default_rng(1)
    rows = draw.integers(0, len(gallery.image_embeddings), queries)
    targets = np.array(gallery.image_embeddings[np.sort(rows)], np.float32)
    dimensions = targets.shape[1]
    noise = draw.standard_normal((queries, 4, dimensions), dtype=np.float32) / dimensions**0.5
    texts: Matrix = targets[:, None, :] + noise
    unit: Matrix = texts / np.linalg.norm(texts, axis=2, keepdims=True)
    return unit


def _means(texts: Matrix) -> Matrix:
    """(3 × queries, dimensions): of v1, v2 and aug."""
    sets = [texts[:, :3].mean(axis=1), texts[:, 3], texts.mean(axis=1)]
    return np.ascontiguousarray(np.stack(sets, axis=1).reshape(-1, texts.shape[2]))


def _asked(texts: Matrix) -> list[Ranked]:
    asked = []
    for place, of_query in enumerate(texts):
        names = tuple(f"{place}.{text}" for text in range(4))
        text_sets = {"v1": names[:3], "v2": names[3:], "aug": names}
        request = RankGallery(
            "made-up", text_sets, _LISTS, TEXT_WEIGHT, DEPTH, excluded_rows=(place,)
        )
        embeddings = [vector.tobytes() for vector in of_query]
        asked.append(Ranked(request, dict(zip(names, embeddings, strict=True))))
    return asked


def _timed(call: Callable[..., object], *arguments: object) -> float:
    began_s = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - began_s


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over pairs: what the machine does meanwhile slows both of a pair."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


_MEASURES = {
    "compare": _compare,
    "memory": _memory,
    "interactive": _interactive,
    "growth": _growth,
}

if __name__ == "__main__":
    main(*sys.argv[1:])
