"""The paper's studies from one run's answers: each variant against a run or a replay of its own."""

from __future__ import annotations

import pytest

from broker.run_report import report_run
from broker.studies import Study, study_names, study_run
from shared.errors import ConfigurationError
from shared.settings import Settings
from tests.miniatures.composed import write_circo
from tests.unit.broker.finished_runs import finish_run

# Every image is verified, so that the record holds all answers.
KNOBS = {"top_k": 20, "num_questions": 3, "baselines": True, "rank_depth": 20}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("studies")
    write_circo(home / "data")
    return Settings(home=home / "home", data_root=home / "data")


@pytest.fixture(scope="module")
def studies(settings: Settings) -> dict[str, Study]:
    run = finish_run(settings, "circo", "val", KNOBS)
    return {study.name: study for study in study_run(settings, run, study_names())}


def metrics(settings: Settings, **knobs: object) -> dict[str, dict[str, float]]:
    """What a run of its own with these knobs measures, by stage."""
    run = finish_run(settings, "circo", "val", {**KNOBS, **knobs})
    return {stage.stage: stage.metrics for stage in report_run(settings, run).stages}


@pytest.mark.parametrize(
    ("study", "knob", "value"),
    [
        ("rrf-k", "rrf_k", 10), ("text-weight", "text_weight", 0.5),
        ("questions", "num_questions", 1), ("top-k", "top_k", 5),
    ],
)  # fmt: skip
def test_a_point_of_a_study_is_what_a_run_of_its_own_measures(
    studies: dict[str, Study], settings: Settings, study: str, knob: str, value: float
) -> None:
    row = next(row for row in studies[study].rows if row.x == value)
    assert row.coverage == 1
    assert row.metrics == pytest.approx(metrics(settings, **{knob: value})[row.stage])


def test_values_beyond_what_was_recorded_are_left_out_and_said(studies: dict[str, Study]) -> None:
    assert [row.x for row in studies["top-k"].rows] == [1, 5, 10, 20]
    assert [row.x for row in studies["questions"].rows] == [1, 2, 3]
    for name, knob in (("top-k", "top_k"), ("questions", "num_questions")):
        assert any(note.startswith(f"{knob} was recorded up to") for note in studies[name].notes)
    assert studies["rrf-k"].notes == []


def test_the_sum_of_scores_stands_beside_the_axis_of_rrf(studies: dict[str, Study]) -> None:
    (summed,) = [row for row in studies["rrf-k"].rows if row.x is None]
    assert summed.label == "sum"


def test_leaving_out_compares_with_the_whole_at_the_same_stage(
    studies: dict[str, Study], settings: Settings
) -> None:
    rows = {row.label: row for row in studies["leave-one-out"].rows}
    own = metrics(settings)
    assert rows["whole"].metrics == pytest.approx(own["verified"])
    assert rows["whole, after fusion"].metrics == pytest.approx(own["coarse"])
    for label, against in {
        "without imagination from text": "coarse",
        "without imagination from pixels": "coarse",
        "without questions about images": "verified",
        "without questions": "verified",
    }.items():
        row = rows[label]
        assert row.against_whole
        for name, paired in row.against_whole.items():
            # first = the whole, second = without the part
            assert paired.difference == pytest.approx(row.metrics[name] - own[against][name])
    assert rows["without questions"].metrics == pytest.approx(own["coarse"])


def test_one_modality_alone_is_the_baseline_of_the_run(
    studies: dict[str, Study], settings: Settings
) -> None:
    rows = {row.label: row for row in studies["modality"].rows}
    own = metrics(settings)
    assert rows["reference image only"].metrics == pytest.approx(own["image_only"])
    assert rows["modification text only"].metrics == pytest.approx(own["text_only"])
    assert studies["modality"].notes == []


def test_a_run_without_baselines_says_what_has_them(settings: Settings) -> None:
    run = finish_run(settings, "circo", "val", {"top_k": 5, "baselines": False})
    (study,) = study_run(settings, run, ["modality"])
    assert [row.label for row in study.rows] == ["whole"]
    assert "--baselines" in study.notes[0]


def test_a_split_without_ground_truth_cannot_be_studied(settings: Settings) -> None:
    run = finish_run(settings, "circo", "test", {"top_k": 5})
    with pytest.raises(ConfigurationError, match="has no ground truth"):
        study_run(settings, run, ["rrf-k"])
