"""Ranking: the formulas, ties by row, failed rows, and bytes that depend on nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from shared.contracts.skills import ListKind, ListRequest
from shared.errors import ItemError
from shared.ranking import Matrix, best_rows, decode_list, encode_list, rank_lists

ROWS, DIMENSIONS = 2500, 16


def _unit(count: int, seed: int) -> Matrix:
    drawn = np.random.default_rng(seed).standard_normal((count, DIMENSIONS)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


IMAGES, CAPTIONS = _unit(ROWS, 1), _unit(ROWS, 2)
TEXTS = {"v1": _unit(3, 3), "v2": _unit(1, 4), "text": _unit(1, 5)}


def _rows(kind: ListKind, text_set: str = "v1", **options: object) -> list[int]:
    settings: dict[str, object] = {"text_weight": 0.15, "depth": 10, "searchable": ROWS}
    settings |= {"image_embeddings": IMAGES, "caption_embeddings": CAPTIONS, **options}
    lists = [ListRequest("x", kind, text_set)]
    (ranked,) = rank_lists(lists=lists, text_embeddings=TEXTS, **settings)  # type: ignore[arg-type]
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
    ranked = rank_lists(IMAGES, CAPTIONS, ROWS, lists, TEXTS, 0.15, 5)
    assert [entry.name for entry in ranked] == ["v2.visual", "v1.hybrid"]
    scored = decode_list(ranked[0])
    expected = (IMAGES @ TEXTS["v2"][0])[scored.rows]
    np.testing.assert_allclose(scored.scores, expected, atol=1e-6)
    assert (np.diff(scored.scores) <= 0).all()
    assert encode_list("v2.visual", scored) == ranked[0]


def test_a_list_has_the_same_bytes_whatever_is_ranked_with_it() -> None:
    alone = ListRequest("v1.hybrid", "hybrid", "v1")
    many = [ListRequest(f"v2.{kind}", kind, "v2") for kind in ("textual", "visual", "hybrid")]
    (first,) = rank_lists(IMAGES, CAPTIONS, ROWS, [alone], TEXTS, 0.15, 50)
    together = rank_lists(IMAGES, CAPTIONS, ROWS, [*many, alone], TEXTS, 0.15, 50)
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
    failed: dict[str, object] = {"image_embeddings": images, "caption_embeddings": captions}
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
        ("visual", "v1", {"depth": 0}, "depth is 0"),
        ("visual", "v1", {"text_weight": 1.5}, "text_weight is 1.5"),
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


def test_selection_agrees_with_sorting_when_scores_tie_across_the_cut() -> None:
    scores = np.round(np.random.default_rng(9).random(3000), 2).astype(np.float32)
    for depth in (1, 7, 100, 2999, 3000):
        best = best_rows(scores, np.arange(3000), depth)
        assert best.rows.tolist() == _by_hand(scores, depth)
        np.testing.assert_array_equal(best.scores, scores[best.rows])
