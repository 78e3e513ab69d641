"""Confidence intervals: what they must be where it is known, and the same for the same seed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from shared.datasets import Protocol, Query
from shared.metrics import bootstrap_intervals, evaluate, half_width_of_mean, mean_over_runs


def test_the_width_is_that_of_the_binomial_for_hits_and_misses() -> None:
    hits = np.repeat([1.0, 0.0], [300, 700])[:, None]
    low, high = bootstrap_intervals(hits, seed=1)[0]
    half = 1.96 * math.sqrt(0.3 * 0.7 / 1000)
    assert low == pytest.approx(0.3 - half, abs=0.006)
    assert high == pytest.approx(0.3 + half, abs=0.006)


def test_about_95_of_100_intervals_hold_the_truth() -> None:
    random = np.random.default_rng(7)
    held = 0
    for seed in range(200):
        low, high = bootstrap_intervals((random.random(200) < 0.4)[:, None].astype(float), seed)[0]
        held += low <= 0.4 <= high
    assert 180 <= held <= 199


def test_all_hits_and_all_misses_have_no_width() -> None:
    values = np.column_stack([np.ones(50), np.zeros(50)])
    assert bootstrap_intervals(values).tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_metrics_share_their_draws_and_a_seed_gives_the_same_interval_again() -> None:
    column = (np.arange(100) % 3 == 0).astype(float)
    both = bootstrap_intervals(np.column_stack([column, column / 2]), seed=5)
    assert both[1].tolist() == pytest.approx((both[0] / 2).tolist())
    assert np.array_equal(both, bootstrap_intervals(np.column_stack([column, column / 2]), seed=5))
    other = bootstrap_intervals(np.column_stack([column, column / 2]), seed=6)
    assert not np.array_equal(both, other)


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (np.zeros((0, 1)), {}),
        (np.zeros(3), {}),
        (np.zeros((3, 1)), {"resamples": 0}),
        (np.zeros((3, 1)), {"level": 1.0}),
    ],
)
def test_what_has_no_interval_is_refused(values: np.ndarray, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"shape|resamples"):
        bootstrap_intervals(values, **options)  # type: ignore[arg-type]


def test_an_evaluation_has_an_interval_around_each_metric_unless_told_not_to() -> None:
    protocol = Protocol(exclude_reference=False, recall_ks=(1, 5), map_ks=(5,))
    queries = [
        Query(query_id=str(n), reference_id=None, modification_text="t", target_ids=("t",))
        for n in range(60)
    ]
    rankings = {str(n): ["t", "x"] if n % 2 else ["x", "t"] for n in range(60)}
    report = evaluate(rankings, queries, protocol, seed=3)
    assert set(report["intervals"]) == set(report["metrics"])
    low, high = report["intervals"]["recall@1"]
    assert 0.3 < low < report["metrics"]["recall@1"] == 0.5 < high < 0.7
    assert evaluate(rankings, queries, protocol, resamples=0)["intervals"] == {}


def test_the_mean_over_runs_counts_every_run_the_same() -> None:
    runs = [
        {"coarse": {"recall@10": 0.2, "recall@50": 0.4}, "verified": {"recall@10": 0.6}},
        {"coarse": {"recall@10": 0.4}, "verified": {"recall@10": 0.8}, "compared": {"map@5": 1.0}},
    ]
    assert mean_over_runs(runs) == {
        "coarse": {"recall@10": pytest.approx(0.3)},
        "verified": {"recall@10": pytest.approx(0.7)},
    }
    assert half_width_of_mean([(0.1, 0.3), (0.2, 0.4)]) == pytest.approx(math.sqrt(0.02) / 2)
    for nothing in ([], [{"coarse": {"map@5": 1.0}}, {"coarse": {"recall@1": 1.0}}]):
        with pytest.raises(ValueError, match=r"no run|in common"):
            mean_over_runs(nothing)
