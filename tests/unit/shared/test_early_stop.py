"""Early stop changes none of the best N, whatever the scores, ties, failures, order of asking."""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.early_stop import Known, Needed, needed
from shared.reranking import Scores, VerifyMode, final_scores, order_by_merit, verification_scores

NAN = float("nan")
MODES: tuple[VerifyMode, ...] = ("both", "visual", "textual")
WEIGHTS = ((0.5, 0.5), (1.0, 0.0), (0.0, 1.0), (0.3, 0.9), (1 / 3, 1e-9))


class Case(NamedTuple):
    """A head with all its answers."""

    coarse: list[float]
    by_image: Scores
    by_caption: Scores
    best: int
    weights: tuple[float, float]
    mode: VerifyMode


@st.composite
def cases(draw: st.DrawFn) -> Case:
    n = draw(st.integers(1, 24))
    steps = st.sampled_from([0.0, 0.0, 1e-13, 0.01, 0.1, 1.0])  # equal and almost equal scores
    coarse = np.cumsum(draw(st.lists(steps, min_size=n, max_size=n)))[::-1].tolist()
    questions = draw(st.integers(1, 4))
    expected = draw(st.lists(st.booleans(), min_size=questions, max_size=questions))
    probability = st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0]) | st.floats(0, 1, width=32)
    scoring = draw(st.sampled_from(["hard", "soft"]))

    def side() -> Scores:
        p_yes = [
            [NAN] * questions
            if draw(st.integers(0, 5)) == 0  # a candidate that cannot be verified
            else draw(st.lists(probability, min_size=questions, max_size=questions))
            for _ in range(n)
        ]
        return verification_scores(np.array(p_yes, np.float32), expected, scoring)[-1]

    return Case(
        coarse, side(), side(), draw(st.integers(1, 12)),
        draw(st.sampled_from(WEIGHTS)), draw(st.sampled_from(MODES)),
    )  # fmt: skip


def ranking(case: Case, by_image: Scores, by_caption: Scores) -> list[int]:
    final = final_scores(case.coarse, by_image, by_caption, case.weights, case.mode)
    return order_by_merit(final).tolist()


def look(case: Case, images: np.ndarray, captions: np.ndarray) -> Needed:
    """What is needed when these have been asked about."""
    return needed(
        case.coarse,
        Known(np.where(images, case.by_image, NAN), images),
        Known(np.where(captions, case.by_caption, NAN), captions),
        case.best,
        case.weights,
        case.mode,
    )


def ask_in_random_order(case: Case, seed: int) -> tuple[np.ndarray, np.ndarray, Needed]:
    """Ask about what is needed, a few at a time, now and then also about what is not."""
    draw, n = random.Random(seed), len(case.coarse)
    images, captions = np.zeros(n, bool), np.zeros(n, bool)
    while True:
        found = look(case, images, captions)
        open_ = [(images, p) for p in np.flatnonzero(found.images & ~images)]
        open_ += [(captions, p) for p in np.flatnonzero(found.captions & ~captions)]
        if not open_:
            return images, captions, found
        for side, place in draw.sample(open_, min(len(open_), draw.randint(1, 4))):
            side[place] = True
        if draw.random() < 0.2:
            draw.choice((images, captions))[draw.randrange(n)] = True


@settings(max_examples=400, deadline=None)
@given(case=cases(), seed=st.integers(0, 2**16))
@example(Case([2.0, 1.0], np.array([NAN, 1.0]), np.array([NAN, 1.0]), 1, (0.5, 0.5), "both"), 0)
@example(Case([1.0] * 4, np.array([0, 0, 1, 1.0]), np.ones(4), 2, (0.5, 0.5), "both"), 1)
def test_the_best_are_those_of_full_verification_in_their_order(case: Case, seed: int) -> None:
    images, captions, found = ask_in_random_order(case, seed)
    whole = ranking(case, case.by_image, case.by_caption)
    asked = ranking(
        case, np.where(images, case.by_image, NAN), np.where(captions, case.by_caption, NAN)
    )
    used = ranking(
        case,
        np.where(found.images, case.by_image, NAN),
        np.where(found.captions, case.by_caption, NAN),
    )
    assert asked[: case.best] == used[: case.best] == whole[: case.best]


@settings(max_examples=200, deadline=None)
@given(case=cases(), seeds=st.tuples(st.integers(0, 2**16), st.integers(0, 2**16)))
def test_what_was_needed_does_not_depend_on_the_order_of_asking(
    case: Case, seeds: tuple[int, int]
) -> None:
    one, other = (ask_in_random_order(case, seed)[2] for seed in seeds)
    everything = np.ones(len(case.coarse), bool)
    known = look(case, everything, everything)
    for found in (one, other):
        assert found.images.tolist() == known.images.tolist()
        assert found.captions.tolist() == known.captions.tolist()


@settings(max_examples=200, deadline=None)
@given(case=cases(), seed=st.integers(0, 2**16), fewer=st.integers(1, 11))
def test_fewer_best_need_nothing_else(case: Case, seed: int, fewer: int) -> None:
    deep = ask_in_random_order(case, seed)[2]
    shallow = ask_in_random_order(case._replace(best=max(case.best - fewer, 1)), seed)[2]
    assert not (shallow.images & ~deep.images).any()
    assert not (shallow.captions & ~deep.captions).any()


@settings(max_examples=200, deadline=None)
@given(case=cases(), seed=st.integers(0, 2**16))
def test_while_something_is_open_the_leaders_have_part_of_it(case: Case, seed: int) -> None:
    """Who asks the leaders, and the first N, always gets on, and never asks in vain."""
    draw, n = random.Random(seed), len(case.coarse)
    images, captions = np.zeros(n, bool), np.zeros(n, bool)
    everything = np.ones(n, bool)
    in_the_end = look(case, everything, everything)
    while True:
        found = look(case, images, captions)
        if not ((found.images & ~images) | (found.captions & ~captions)).any():
            break
        front = found.order[: found.places].tolist()
        open_ = [(captions, p) for p in front if found.captions[p] and not captions[p]]
        open_ += [
            (images, p)
            for p in front
            if found.images[p] and not images[p] and (captions[p] or not found.captions[p])
        ]
        assert open_
        for side, place in draw.sample(open_, draw.randint(1, len(open_))):
            side[place] = True
    assert images.tolist() == in_the_end.images.tolist()
    assert captions.tolist() == in_the_end.captions.tolist()


def test_a_head_that_is_settled_early_is_left_early() -> None:
    # The first two satisfy everything; the third could reach 0.6 at most.
    case = Case([1.0, 0.9, 0.6, 0.5, 0.0], np.ones(5), np.ones(5), 2, (0.5, 0.5), "both")
    images, captions, _ = ask_in_random_order(case, 3)
    found = look(case, images, captions)
    assert found.images.tolist() == found.captions.tolist() == [True, True, False, False, False]


def test_a_caption_that_does_not_fit_spares_the_image() -> None:
    by_caption = np.array([1.0, 0.0, 0.0, 1.0])
    case = Case([1.0, 1.0, 1.0, 1.0], np.ones(4), by_caption, 1, (0.5, 0.5), "both")
    found = ask_in_random_order(case, 0)[2]
    assert found.captions.tolist() == [True, False, False, False]
    worse = case._replace(by_image=np.array([0.0, 1.0, 1.0, 1.0]))
    found = ask_in_random_order(worse, 0)[2]
    assert found.captions.tolist() == [True, True, True, True]
    assert found.images.tolist() == [True, False, False, True]


@pytest.mark.parametrize("mode", MODES)
def test_more_best_than_candidates_are_all_of_them(mode: VerifyMode) -> None:
    case = Case([0.3, 0.2], np.array([0.0, 1.0]), np.array([1.0, NAN]), 10, (0.5, 0.5), mode)
    _, _, found = ask_in_random_order(case, 0)
    assert found.images.all() == (mode != "textual")
    assert found.captions.all() == (mode != "visual")
    empty = Case([], np.empty(0), np.empty(0), 3, (0.5, 0.5), mode)
    assert not len(look(empty, np.empty(0, bool), np.empty(0, bool)).order)
