"""Ranking: the formulas, ties by row, failed rows, and bytes that depend on nothing else."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from shared import exact_ranking
from shared.contracts.skills import ListKind, ListRequest, RankedList, RankGallery
from shared.errors import ItemError
from shared.exact_ranking import rank_exactly
from shared.half_precision import to_float32
from shared.ranking import Ranked, decode_list, encode_list, rank_galleries, rank_gallery
from shared.ranking_layout import Matrix, StoredMatrix, Wanted

ROWS, DIMENSIONS = 2500, 16


def _unit(count: int, seed: int) -> Matrix:
    drawn = np.random.default_rng(seed).standard_normal((count, DIMENSIONS)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


IMAGES, CAPTIONS = _unit(ROWS, 1), _unit(ROWS, 2)
TEXTS = {"v1": _unit(3, 3), "v2": _unit(1, 4), "text": _unit(1, 5)}


class _Gallery(NamedTuple):
    image_embeddings: StoredMatrix = IMAGES
    caption_embeddings: StoredMatrix = CAPTIONS
    searchable: int = ROWS


def _ask(lists: list[ListRequest], **options: Any) -> Ranked:
    """A request with the texts of TEXTS; "v1.0" is the first text of set v1."""
    embeddings = {
        f"{name}.{place}": vector.tobytes()
        for name, vectors in TEXTS.items()
        for place, vector in enumerate(vectors)
    }
    text_sets = {
        name: tuple(f"{name}.{place}" for place in range(len(of))) for name, of in TEXTS.items()
    }
    settings: dict[str, Any] = {"text_weight": 0.15, "depth": 10, **options}
    return Ranked(RankGallery("key", text_sets, tuple(lists), **settings), embeddings)


def _ranked(lists: list[ListRequest], gallery: _Gallery, **options: Any) -> list[RankedList]:
    asked = _ask(lists, **options)
    return list(rank_gallery(asked.request, gallery, asked.text_embeddings).lists)


def _rows(kind: ListKind, text_set: str = "v1", **options: Any) -> list[int]:
    names = ("image_embeddings", "caption_embeddings", "searchable")
    gallery = _Gallery(**{name: options.pop(name) for name in names if name in options})
    (ranked,) = _ranked([ListRequest("x", kind, text_set)], gallery, **options)
    return decode_list(ranked).rows.tolist()


def _by_hand(scores: np.ndarray, depth: int = 10) -> list[int]:
    return sorted(range(len(scores)), key=lambda row: (-round(float(scores[row]), 6), row))[:depth]


def test_every_kind_of_list_follows_its_formula() -> None:
    visual = np.mean([IMAGES @ e for e in TEXTS["v1"]], axis=0)
    textual = np.mean([CAPTIONS @ e for e in TEXTS["v1"]], axis=0)
    assert _rows("visual") == _by_hand(visual)
    assert _rows("textual") == _by_hand(textual)
    assert _rows("hybrid") == _by_hand(0.85 * visual + 0.15 * textual)
    assert _rows("image_only", "", reference_row=7) == _by_hand(IMAGES @ IMAGES[7])
    assert _rows("text_only", "") == _by_hand(IMAGES @ TEXTS["text"][0])
    total = IMAGES[7] + TEXTS["text"][0]
    total /= np.linalg.norm(total)
    assert _rows("image_text_sum", "", reference_row=7) == _by_hand(IMAGES @ total)


def test_scores_come_with_the_rows_rounded_to_six_decimals() -> None:
    lists = [ListRequest("v2.visual", "visual", "v2"), ListRequest("v1.hybrid", "hybrid", "v1")]
    ranked = _ranked(lists, _Gallery(), depth=5)
    assert [entry.name for entry in ranked] == ["v2.visual", "v1.hybrid"]
    scored = decode_list(ranked[0])
    expected = (IMAGES @ TEXTS["v2"][0])[scored.rows]
    np.testing.assert_allclose(scored.scores, expected, atol=1e-6)
    assert (np.diff(scored.scores) <= 0).all()
    assert encode_list("v2.visual", scored) == ranked[0]


def test_a_list_has_the_same_bytes_whatever_is_ranked_with_it() -> None:
    alone = ListRequest("v1.hybrid", "hybrid", "v1")
    many = [ListRequest(f"v2.{kind}", kind, "v2") for kind in ("textual", "visual", "hybrid")]
    (first,) = _ranked([alone], _Gallery(), depth=50)
    together = _ranked([*many, alone], _Gallery(), depth=50)
    assert together[-1] == first


def test_equal_images_tie_and_the_lower_row_comes_first() -> None:
    images = IMAGES.copy()
    winner = _rows("visual")[0]
    copies = [2100, 3, 1024, 1500]  # in different blocks and places of a block
    images[copies] = images[winner]
    # A difference below the sixth decimal is noise, not an order.
    images[1024] += np.float32(1e-8)
    assert _rows("visual", image_embeddings=images)[:5] == sorted([winner, *copies])


def test_failed_rows_are_in_no_list_that_needs_them() -> None:
    images, captions = IMAGES.copy(), CAPTIONS.copy()
    no_image, no_caption = _rows("hybrid")[:2]
    images[no_image] = 0.0
    captions[no_caption] = 0.0
    failed: dict[str, Any] = {"image_embeddings": images, "caption_embeddings": captions}
    assert not {no_image, no_caption} & set(_rows("hybrid", depth=ROWS, **failed))
    assert no_image not in _rows("visual", depth=ROWS, **failed)
    assert no_caption in _rows("visual", depth=ROWS, **failed)
    assert no_image in _rows("textual", depth=ROWS, **failed)
    # Even a bad real row is ranked, and worse than zero is still better than nothing.
    assert len(_rows("visual", depth=ROWS, **failed)) == ROWS - 1
    assert _rows("hybrid", text_weight=0.0, depth=ROWS, **failed).count(no_caption) == 1


def test_an_image_baseline_of_a_failed_reference_is_empty() -> None:
    images = IMAGES.copy()
    images[7] = 0.0
    assert _rows("image_only", "", image_embeddings=images, reference_row=7) == []
    assert _rows("image_text_sum", "", image_embeddings=images, reference_row=7) == []


def test_excluded_and_unsearchable_rows_never_appear() -> None:
    best = _rows("hybrid", depth=3)
    assert _rows("hybrid", depth=2, excluded_rows=best[:1]) == best[1:]
    assert max(_rows("visual", searchable=100, depth=1000)) == 99
    # The reference may itself be unsearchable.
    assert max(_rows("image_only", "", searchable=100, reference_row=2000)) < 100


def test_a_subset_is_ranked_as_the_whole_gallery_ranks_it() -> None:
    subset = (2400, 5, 77, 1300, 9)
    whole = [row for row in _rows("hybrid", depth=ROWS) if row in subset]
    assert _rows("hybrid", subset_rows=subset) == whole
    assert _rows("hybrid", subset_rows=subset, excluded_rows=(77,)) == [r for r in whole if r != 77]
    assert _rows("hybrid", subset_rows=()) == []


def test_more_rows_than_there_are_gives_all() -> None:
    assert sorted(_rows("visual", depth=10 * ROWS)) == list(range(ROWS))


@pytest.mark.parametrize(
    ("kind", "text_set", "options", "message"),
    [
        ("visual", "v9", {}, "text set 'v9' has no embedding"),
        ("image_only", "", {}, "needs a reference"),
        ("image_only", "", {"reference_row": ROWS}, "needs a reference"),
        ("visual", "v1", {"excluded_rows": (-1,)}, "excluded row -1"),
        ("visual", "v1", {"subset_rows": (ROWS,)}, f"subset row {ROWS}"),
        ("visual", "v1", {"image_embeddings": IMAGES[:, :8]}, "do not fit"),
    ],
)
def test_a_request_that_cannot_be_ranked_says_why(
    kind: ListKind, text_set: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ItemError, match=message):
        _rows(kind, text_set, **options)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("depth", [1, 100, 2000])
def test_the_pass_agrees_with_sorting_everything(
    dtype: type[np.floating[Any]], threads: int, depth: int
) -> None:
    """Coarse numbers tie everywhere, also across the cut and across the threads' borders."""
    images = (np.round(IMAGES * 8) / 8).astype(dtype)
    captions = (np.round(CAPTIONS * 8) / 8).astype(dtype)
    images[::97] = 0.0
    draw = np.random.default_rng(11)
    wanted = [
        Wanted(vector.tobytes(), *weights, excluded, subset)
        for vector in np.round(_unit(30, 12) * 4) / 8
        for weights in ((1.0, 0.0), (0.0, 1.0), (0.75, 0.25), (0.5, 0.5))
        for excluded in ((), (3, 1024))
        for subset in (None, tuple(sorted(draw.choice(ROWS, 700, replace=False).tolist())))
    ]
    best = rank_exactly(images, captions, ROWS - 100, wanted, depth, threads)
    for one, ranking in zip(wanted[::31], best[::31], strict=True):
        vector = np.frombuffer(one.vector, np.float32).astype(np.float64)
        scores = one.image_weight * (images.astype(np.float64) @ vector)
        scores += one.caption_weight * (captions.astype(np.float64) @ vector)
        rows = set(range(ROWS - 100) if one.subset is None else one.subset) - set(one.excluded)
        rows = {row for row in rows if row < ROWS - 100}
        if one.image_weight:
            rows -= set(range(0, ROWS, 97))
        if one.caption_weight:
            rows -= set(np.flatnonzero(~captions.any(axis=1)).tolist())
        expected = sorted(rows, key=lambda row: (-round(float(scores[row]), 6), row))[:depth]
        assert ranking.rows.tolist() == expected
        np.testing.assert_allclose(ranking.scores, scores[expected], atol=1e-6)


def test_a_batch_gives_every_request_the_bytes_it_gets_alone() -> None:
    """Other texts, λ, depths, exclusions and subsets beside it change nothing."""
    kinds: tuple[ListKind, ...] = ("visual", "textual", "hybrid")
    lists = [ListRequest(f"{text}.{kind}", kind, text) for text in TEXTS for kind in kinds]
    asked = [
        _ask(
            lists[place % 3 :],
            text_weight=place / 40,
            depth=5 + place,
            excluded_rows=(place, 2000 + place),
            subset_rows=None if place % 4 else tuple(range(place, ROWS, 3)),
            reference_row=place,
        )
        for place in range(40)
    ]
    together = rank_galleries(asked, _Gallery())
    for one, answer in zip(asked, together, strict=True):
        assert rank_gallery(one.request, _Gallery(), one.text_embeddings) == answer


def test_one_request_that_cannot_be_ranked_leaves_the_others_alone() -> None:
    good, bad = _ask([ListRequest("x", "visual", "v1")]), _ask([ListRequest("x", "visual", "v9")])
    first, second = rank_galleries([bad, good], _Gallery())
    assert isinstance(first, ItemError)
    assert second == rank_gallery(good.request, _Gallery(), good.text_embeddings)


def test_wide_products_sum_as_narrow_ones_or_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A BLAS whose sums depend on the number of columns gets groups of 8, and the same bytes."""
    wanted = [Wanted(vector.tobytes(), 1.0, 0.0) for vector in _unit(60, 13)]
    wide = rank_exactly(IMAGES, CAPTIONS, ROWS, wanted, 50)
    monkeypatch.setattr(exact_ranking, "_sums_alike", lambda dimensions, columns: False)
    for narrow, one in zip(rank_exactly(IMAGES, CAPTIONS, ROWS, wanted, 50), wide, strict=True):
        np.testing.assert_array_equal(narrow.rows, one.rows)
        np.testing.assert_array_equal(narrow.scores, one.scores)


def test_every_float16_becomes_the_same_float32() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = halves[np.isfinite(halves)]
    out = np.empty(len(finite), np.float32)
    to_float32(finite.view(np.int16), out)
    np.testing.assert_array_equal(out.view(np.int32), finite.astype(np.float32).view(np.int32))
