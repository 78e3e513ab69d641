"""What the report of a finished run says, on miniatures of the public data sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.run_report import RunReport, report_run, target_ranks
from broker.run_store import read_json, run_folder
from shared.datasets import Protocol, Query
from shared.errors import ConfigurationError, PermanentError
from shared.settings import Settings
from tests.miniatures.composed import write_circo, write_cirr
from tests.unit.broker.finished_runs import finish_run

KNOBS = {"top_k": 8, "baselines": True, "num_questions": 2}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("report")
    write_circo(home / "data")
    write_cirr(home / "data")
    return Settings(home=home / "home", data_root=home / "data")


@pytest.fixture(scope="module")
def circo(settings: Settings) -> RunReport:
    return report_run(settings, finish_run(settings, "circo", "val", KNOBS, name="mine"))


def test_it_says_what_was_asked_of_whom(circo: RunReport) -> None:
    assert (circo.dataset, circo.split, circo.name) == ("CIRCO", "val", "mine")
    assert (circo.queries, circo.scored, circo.queries_in_data_set) == (6, 6, 6)
    assert circo.models == {
        "imagination": "models/tiny, fake",
        "similarity": "models/vit@r1, weights 0123456789ab",
    }
    assert circo.knobs == {"top_k": 8, "baselines": True, "num_questions": 2}
    assert circo.failures == []


def test_stages_come_in_their_order_with_titles_in_words(circo: RunReport) -> None:
    assert [stage.stage for stage in circo.stages] == [
        "image_only", "text_only", "image_text_sum", "v1.hybrid", "v2.hybrid", "aug.hybrid",
        "coarse", "verified",
    ]  # fmt: skip
    titles = {stage.stage: stage.title for stage in circo.stages}
    assert titles["v1.hybrid"] == "list v1: imagined from text"
    assert titles["verified"] == "XR: verified"
    assert circo.pipeline == ["coarse", "verified"]


def test_the_curve_is_the_recall_the_metrics_name(circo: RunReport) -> None:
    for stage in circo.stages:
        curve = stage.recall_curve
        assert len(curve) == 100
        assert curve == sorted(curve)
        for name, value in stage.metrics.items():
            if name.startswith("recall@"):
                assert curve[int(name.partition("@")[2]) - 1] == pytest.approx(value)


def test_a_gain_is_the_difference_of_the_two_stages(circo: RunReport) -> None:
    (gain,) = circo.gains
    before, after = (
        next(stage.metrics for stage in circo.stages if stage.stage == name)
        for name in (gain.before, gain.after)
    )
    assert gain.metrics
    for name, one in gain.metrics.items():
        assert one.difference == pytest.approx(after[name] - before[name])
        assert one.low <= one.difference <= one.high


def test_hardest_and_pushed_down_queries_are_sorted_and_shown(circo: RunReport) -> None:
    ranks = [query.ranks["verified"] or 999 for query in circo.hardest]
    assert ranks == sorted(ranks, reverse=True)
    assert 1 not in ranks
    assert len(ranks) == sum(one.after != 1 for one in circo.rank_changes)
    for query in circo.hardest:
        assert len(query.hits) == 5
        assert len(query.propositions) == 2
        assert query.captions[-1].startswith(query.modification_text)  # C_v
    fell = {one.query_id for one in circo.rank_changes if (one.after or 99) > (one.before or 99)}
    assert {query.query_id for query in circo.losses} == fell


def test_the_papers_figures_are_those_of_the_data_set(circo: RunReport, settings: Settings) -> None:
    first, second = circo.published
    assert (first.split, first.metrics["map@5"]) == ("test", 0.2751)
    assert second.metrics == {"map@5": 0.3138}
    cirr = report_run(settings, finish_run(settings, "cirr", "val", {"top_k": 5}))
    assert {one.split for one in cirr.published} == {"test1"}
    assert cirr.published[0].metrics["recall_subset@1"] == 0.7754
    names = {name for stage in cirr.stages for name in stage.metrics}
    assert cirr.published[0].metrics.keys() <= names  # so that they stand in the same columns


def test_a_failed_query_is_listed_with_its_reason_and_counts_as_a_miss(settings: Settings) -> None:
    # Given a run of a split in which one query cannot be answered
    whole = report_run(settings, finish_run(settings, "circo", "val", KNOBS))
    text = whole.hardest[0].modification_text
    run = finish_run(settings, "circo", "val", KNOBS, refused_text=text)
    report = report_run(settings, run)
    # Then it is there by name, and no query's rank stands in for it
    (failed,) = report.failures
    assert failed.modification_text == text
    assert "refuses" in failed.reason
    assert failed.query_id not in {query.query_id for query in report.hardest}
    (change,) = (one for one in report.rank_changes if one.query_id == failed.query_id)
    assert (change.before, change.after) == (None, None)
    assert report.stages[-1].recall_curve[-1] <= 5 / 6


def test_a_split_without_ground_truth_has_a_report_without_metrics(settings: Settings) -> None:
    report = report_run(settings, finish_run(settings, "circo", "test", KNOBS))
    assert (report.queries, report.scored) == (7, 0)
    assert all(stage.metrics == {} for stage in report.stages)
    assert report.hardest == report.losses == report.rank_changes == []
    assert report.published  # to be read beside what the server says


def test_a_run_without_any_answer_has_a_report_of_its_failures(settings: Settings) -> None:
    text = report_run(settings, finish_run(settings, "circo", "val", limit=1)).hardest
    refused = text[0].modification_text if text else "is blue and stands further left"
    report = report_run(
        settings, finish_run(settings, "circo", "val", limit=1, refused_text=refused)
    )
    assert len(report.failures) == 1
    assert report.pipeline == []
    assert report.gains == []


def test_a_run_that_is_not_finished_or_damaged_is_refused(
    settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="is no run id"):
        report_run(settings, "nothing")
    run = finish_run(settings, "circo", "val", KNOBS)
    metrics = run_folder(settings.runs_folder, run) / "metrics.json"
    assert read_json(settings.runs_folder, run, "metrics.json")
    metrics.unlink()
    with pytest.raises(PermanentError, match=r"has no metrics\.json"):
        report_run(settings, run)


def test_the_rank_is_that_of_the_target_recall_looks_at() -> None:
    query = Query(query_id="q", reference_id=None, modification_text="t", target_ids=("a", "b"))
    rankings = {"coarse": [7, 3, 5], "verified": [5, 7]}
    rows = {"a": 3, "b": 5}
    first = Protocol(exclude_reference=False, recall_targets="first")
    assert target_ranks(query, first, rankings, rows) == {"coarse": 2, "verified": None}  # type: ignore[arg-type]
    of_any = Protocol(exclude_reference=False, recall_targets="any")
    assert target_ranks(query, of_any, rankings, rows) == {"coarse": 2, "verified": 1}  # type: ignore[arg-type]
    assert target_ranks(query, first, rankings, {"a": None}) == {"coarse": None, "verified": None}  # type: ignore[arg-type]
