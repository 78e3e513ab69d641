"""Golden numbers on the official annotation files: published scores, closed forms, perfection."""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from shared.datasets import Protocol, Query
from shared.datasets.benchmark import Benchmark
from shared.datasets.registry import SOURCES
from shared.metrics import average_precision_at_k, evaluate, recall_at_k
from shared.submission import build_submission, check_file

OFFICIAL = Path(
    os.environ.get("XR_OFFICIAL_DATA", Path(__file__).parents[3] / "shared" / "data")
).absolute()
SCORED = [
    ("circo", "val"), ("cirr", "val"), ("fashioniq-dress", "val"), ("fashioniq-shirt", "val"),
    ("fashioniq-toptee", "val"), ("flickr30k", "test"), ("mscoco", "test"), ("visdial", "val"),
]  # fmt: skip
WITH_SERVER = [("circo", "val"), ("circo", "test"), ("cirr", "val"), ("cirr", "test1")]
SEED = 20260114
CIRCO_GALLERY = 123_403
STANDARD_ERRORS = 5
"""One wrong alarm in a million, were the seed another."""


@functools.cache
def official(name: str, split: str) -> tuple[tuple[Query, ...], tuple[str, ...], Protocol]:
    """Queries, gallery and protocol of a set. CIRCO's list of images is not among the files."""
    if not OFFICIAL.is_dir():
        pytest.skip(
            f"NOTHING WAS CHECKED: the official annotation files are not in {OFFICIAL};"
            " XR_OFFICIAL_DATA names their folder"
        )
    source = SOURCES[name]
    queries = tuple(query for _, query in source.read_queries(split, OFFICIAL))
    if name == "circo":
        named = {i for query in queries for i in (*query.target_ids, query.reference_id)}
        others = (str(number) for number in range(1_000_000, 1_000_000 + CIRCO_GALLERY))
        return queries, (*sorted(map(str, named)), *others)[:CIRCO_GALLERY], source.protocol
    return queries, tuple(source.read_gallery(split, OFFICIAL).images.ids), source.protocol


def test_circos_sample_submission_scores_as_published() -> None:
    queries, _, protocol = official("circo", "val")
    sample = OFFICIAL / "CIRCO" / "submission_examples" / "submission_val.json"
    rankings = {
        query_id: [str(image_id) for image_id in images]
        for query_id, images in json.loads(sample.read_text()).items()
    }
    report = evaluate(rankings, queries, protocol)
    percent = {k: round(100 * report["metrics"][f"map@{k}"], 2) for k in (5, 10, 25, 50)}
    assert percent == {5: 0.49, 10: 0.52, 25: 0.54, 50: 0.60}
    assert check_file(sample).problems == ()


@pytest.mark.parametrize(("name", "split"), SCORED)
def test_a_perfect_ranker_reaches_100_in_every_metric(name: str, split: str) -> None:
    queries, gallery, protocol = official(name, split)
    rankings = {
        query.query_id: [*query.target_ids, *(i for i in gallery[:60] if i not in query.target_ids)]
        for query in queries
    }
    report = evaluate(rankings, queries, protocol, resamples=20)
    assert report["metrics"]
    assert set(report["metrics"].values()) == {1.0}
    assert {tuple(bounds) for bounds in report["intervals"].values()} == {(1.0, 1.0)}
    assert report["rank"]["median"] == report["rank"]["mean"] == 1
    assert all(set(entry["metrics"].values()) == {1.0} for entry in report["rounds"])


@pytest.mark.parametrize(("name", "split"), SCORED)
def test_a_random_ranker_scores_what_chance_gives(name: str, split: str) -> None:
    # Given rankings drawn with a fixed seed
    queries, gallery, protocol = official(name, split)
    random = np.random.default_rng(SEED)
    candidates = len(gallery) - protocol.exclude_reference
    rankings, subsets = {}, {}
    for query in queries:
        drawn = [gallery[row] for row in random.choice(len(gallery), 51, replace=False)]
        excluded = query.reference_id if protocol.exclude_reference else None
        rankings[query.query_id] = [i for i in drawn if i != excluded][:50]
        subsets[query.query_id] = list(random.permutation(query.subset_ids))
    # When they are evaluated, then every metric is its expectation, within five standard errors
    report = evaluate(rankings, queries, protocol, subsets, resamples=0)
    expected = expectations(queries, protocol, candidates)
    assert set(expected) == set(report["metrics"])
    units = len({query.dialogue_id for query in queries}) if protocol.hits_ks else len(queries)
    for metric, chance in expected.items():
        tolerance = STANDARD_ERRORS * math.sqrt(chance * (1 - chance) / units)
        assert report["metrics"][metric] == pytest.approx(chance, abs=tolerance), metric
    # Then the tolerance tells a ranker of chance from one that finds anything
    assert all(chance < 0.7 for chance in expected.values())


def expectations(queries: Sequence[Query], protocol: Protocol, gallery: int) -> Mapping[str, float]:
    """Closed forms; a metric in [0, 1] of mean p has a variance of at most p (1 - p)."""
    first = protocol.recall_targets == "first"
    found = [1 if first else len(query.target_ids) for query in queries]
    chances = {
        f"recall@{k}": float(np.mean([chance_of_a_hit(targets, gallery, k) for targets in found]))
        for k in protocol.recall_ks
    }
    for k in protocol.map_ks:
        chances[f"map@{k}"] = float(
            np.mean([chance_precision(len(query.target_ids), gallery, k) for query in queries])
        )
    for k in protocol.subset_ks:
        chances[f"recall_subset@{k}"] = float(np.mean([k / len(q.subset_ids) for q in queries]))
    for k in protocol.hits_ks:
        rounds = len({query.round for query in queries})
        alone = chance_of_a_hit(1, gallery, k)
        chances |= {f"round_hits@{k}": alone, f"hits@{k}": 1 - (1 - alone) ** rounds}
    return chances


def chance_of_a_hit(targets: int, gallery: int, k: int) -> float:
    """1 - P(no target among k drawn without replacement)."""
    return 1 - math.comb(gallery - targets, k) / math.comb(gallery, k)


def chance_precision(targets: int, gallery: int, k: int) -> float:
    """E[AP@k]: at rank r a target stands with probability g/N, and then (r-1)(g-1)/(N-1) of the
    places before it are expected to hold one as well."""
    share = (targets - 1) / (gallery - 1)
    total = sum((1 + (rank - 1) * share) / rank for rank in range(1, k + 1))
    return targets / gallery * total / min(k, targets)


def test_closed_forms_are_right_where_all_orders_can_be_counted() -> None:
    images, targets = "abcdef", ("a", "b", "c")
    orders = list(itertools.permutations(images))
    for k in (1, 2, 4):
        precision = np.mean([average_precision_at_k(order, targets, k) for order in orders])
        recall = np.mean([recall_at_k(order, targets, k) for order in orders])
        assert precision == pytest.approx(chance_precision(3, 6, k))
        assert recall == pytest.approx(chance_of_a_hit(3, 6, k))


@pytest.mark.parametrize(("name", "split"), WITH_SERVER)
def test_submissions_of_whole_official_splits_pass_the_checker(
    name: str, split: str, tmp_path: Path
) -> None:
    queries, gallery, protocol = official(name, split)
    benchmark = Benchmark(
        name=SOURCES[name].name, split=split, images=[(i, Path(i)) for i in gallery],
        searchable=len(gallery), queries=queries, protocol=protocol,
    )  # fmt: skip
    random = np.random.default_rng(SEED)
    rankings = {
        query.query_id: [gallery[row] for row in random.choice(len(gallery), 60, replace=False)]
        for query in queries[1:]  # the first has failed
    }
    for metric in ("map",) if name == "circo" else ("recall",):
        submission = build_submission(benchmark, metric, rankings, gallery)
        assert submission.filled == (queries[0].query_id,)
        path = tmp_path / f"{metric}.json"
        path.write_text(json.dumps(submission.content))
        checked = check_file(path, benchmark)
        assert (checked.kind, checked.queries) == (name, len(queries))
        assert checked.problems == ()
