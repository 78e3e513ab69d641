"""The paper's parameter studies and ablations, computed from the recorded answers of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec.structs import replace

from broker.evaluation import rank_run
from broker.paired_metrics import PairedMetric, Rankings, paired_metrics
from broker.query_state import QueryState
from broker.recorded_run import RecordedRun, Surroundings, open_recorded_run, open_surroundings
from broker.replay import check_replayable, replay
from broker.stages import final_stage
from broker.sweep import Fusion, Grid, combinations, sweep
from shared.errors import ConfigurationError
from shared.knobs import BASELINES, Knobs
from shared.metrics import evaluate
from shared.settings import Settings

StudyName = Literal["rrf-k", "text-weight", "questions", "top-k", "leave-one-out", "modality"]


class StudyRow(msgspec.Struct, frozen=True, kw_only=True):
    """One variant.

    Attributes:
        x: its value on the axis; None where the variants are no numbers.
        stage: the last stage it has, whose metrics these are.
        coverage: the share of the answers it would have asked for that the record holds.
        against_whole: the recorded run as a whole (its same stage) against this variant, query by
            query; {} where the variants lie on an axis.
    """

    label: str
    x: float | None
    stage: str
    coverage: float
    metrics: dict[str, float]
    intervals: dict[str, Sequence[float]]
    against_whole: dict[str, PairedMetric] = {}


class Study(msgspec.Struct, frozen=True, kw_only=True):
    """One study: what varies, and what came of it.

    Attributes:
        axis: what x is; empty where the variants are no numbers.
        notes: what could not be computed from the record, and why.
    """

    name: StudyName
    title: str
    axis: str
    rows: list[StudyRow]
    notes: list[str]


class _Swept(NamedTuple):
    """A study of one number. `knob` bounds the values by what was recorded; None = unbounded."""

    title: str
    axis: str
    knob: str
    values: tuple[float, ...]
    bounded: bool
    fusions: tuple[Fusion, ...] = ()


_SWEPT: dict[StudyName, _Swept] = {
    "rrf-k": _Swept(
        "k of reciprocal rank fusion", "k", "rrf_k", (1, 10, 30, 60, 100, 200), False,
        ("rrf", "sum"),
    ),
    "text-weight": _Swept(
        "λ, the weight of captions beside images", "λ", "text_weight",
        (0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), False,
    ),
    "questions": _Swept(
        "|Q|, propositions per query", "|Q|", "num_questions", (1, 2, 3, 4, 5), True
    ),
    "top-k": _Swept(
        "k', candidates verified", "k'", "top_k", (1, 5, 10, 20, 30, 50, 100, 200, 500), True
    ),
}  # fmt: skip

_LEFT_OUT: dict[str, dict[str, Any]] = {
    "without imagination from text": {"imagine_text": False, "stages": ("coarse",)},
    "without imagination from pixels": {"imagine_image": False, "stages": ("coarse",)},
    "without similarity to images": {"list_kinds": ("textual",)},
    "without similarity to captions": {"list_kinds": ("visual",)},
    "without questions about images": {"verify_mode": "textual"},
    "without questions about captions": {"verify_mode": "visual"},
    "without questions": {"stages": ("coarse",)},
}
"""Propositions depend on both imaginations, so a run without one is compared after fusion."""

_MODALITIES = {
    "image_only": "reference image only",
    "text_only": "modification text only",
    "image_text_sum": "sum of both",
}


def study_names() -> tuple[StudyName, ...]:
    """All studies, in the order in which they are shown."""
    return (*_SWEPT, "leave-one-out", "modality")


def study_run(settings: Settings, run: str, names: Sequence[StudyName]) -> list[Study]:
    """The studies of a finished run; none asks a model.

    Raises: ConfigurationError: no such run, not finished, or no ground truth. DatasetError: its
        data set, gallery or image database is gone.
    """
    recorded = open_recorded_run(settings.runs_folder, run)
    around = open_surroundings(settings, recorded)
    if not any(query.target_ids for query in around.asked.queries):
        raise ConfigurationError(f"the data set of run {recorded.run_id} has no ground truth")
    studied = _Studied(recorded, around)
    return [studied.study(name) for name in names]


class _Studied:
    """One recorded run, and its own rankings to compare with."""

    def __init__(self, recorded: RecordedRun, around: Surroundings) -> None:
        self._recorded = recorded
        self._around = around
        self._ids = around.gallery.image_ids
        kept = [stage for stage in recorded.knobs.stages if stage != "compare"]
        self._knobs = replace(recorded.knobs, stages=tuple(kept))
        self._whole: dict[str, Rankings] = {}

    def study(self, name: StudyName) -> Study:
        if name in _SWEPT:
            return self._swept(name, _SWEPT[name])
        return self._left_out() if name == "leave-one-out" else self._modalities()

    def _swept(self, name: StudyName, about: _Swept) -> Study:
        most = getattr(self._knobs, about.knob)
        values = [value for value in about.values if not about.bounded or value <= most]
        notes = []
        if len(values) < len(about.values):
            notes.append(f"{about.knob} was recorded up to {most}: higher values need another run")
        kind = type(most)
        grid = Grid(
            **{_GRID[about.knob]: tuple(kind(value) for value in values)},
            fusions=about.fusions,
        )
        wanted = combinations(self._knobs, grid)
        around = self._around
        outcomes = sweep(
            self._recorded.states, around.asked.queries, around.asked.benchmark.protocol,
            around.space, wanted, around.database, self._ids.__getitem__,
        )  # fmt: skip
        rows = []
        for outcome in outcomes:
            stage = list(outcome.metrics)[-1]
            x = float(getattr(outcome.knobs, about.knob))
            summed = bool(about.fusions) and outcome.knobs.fusion != "rrf"
            rows.append(
                StudyRow(
                    label=outcome.knobs.fusion if summed else f"{about.axis} = {x:g}",
                    x=None if summed else x,
                    stage=stage,
                    coverage=outcome.coverage,
                    metrics=dict(outcome.metrics[stage]),
                    intervals=dict(outcome.intervals[stage]),
                )
            )
        return Study(name=name, title=about.title, axis=about.axis, rows=rows, notes=notes)

    def _left_out(self) -> Study:
        last = final_stage(self._knobs)
        rows, notes = [self._row("whole", last, self._own(last), 1.0)], []
        if last != "coarse":
            rows.append(self._row("whole, after fusion", "coarse", self._own("coarse"), 1.0))
        for label, changed in _LEFT_OUT.items():
            try:
                knobs = replace(self._knobs, **changed)
                check_replayable(self._knobs, knobs)
                found = replay(
                    self._recorded.states, self._around.asked.queries, self._around.space, knobs,
                    self._around.database,
                )  # fmt: skip
            except ConfigurationError as error:
                notes.append(f"{label}: {error}")
                continue
            stage = final_stage(knobs)
            rankings = self._ranked(found.states, knobs, stage)
            against = stage if label != "without questions" else last
            rows.append(self._row(label, stage, rankings, found.coverage, self._own(against)))
        notes.append(
            "without an imagination the propositions would be others: those rows are compared "
            "after fusion; `xr bench --no-imagine-text` (or -image) runs the whole pipeline so"
        )
        return Study(name="leave-one-out", title="Leaving one part out", axis="", rows=rows,
                     notes=notes)  # fmt: skip

    def _modalities(self) -> Study:
        last, notes = final_stage(self._knobs), []
        rows = [self._row("whole", last, self._own(last), 1.0)]
        for name, label in _MODALITIES.items():
            rankings = self._own(name)
            if any(rankings.values()):
                rows.append(self._row(label, name, rankings, 1.0, self._own(last)))
        if len(rows) < 1 + len(BASELINES):
            notes.append("the run was recorded without baselines: `xr bench --baselines` has them")
        return Study(name="modality", title="One modality alone", axis="", rows=rows, notes=notes)

    def _row(
        self,
        label: str,
        stage: str,
        rankings: Rankings,
        coverage: float,
        whole: Rankings | None = None,
    ) -> StudyRow:
        asked = self._around.asked
        protocol = msgspec.structs.replace(asked.benchmark.protocol, subset_ks=())
        found = evaluate(rankings, asked.queries, protocol, seed=self._knobs.seed)
        return StudyRow(
            label=label,
            x=None,
            stage=stage,
            coverage=coverage,
            metrics=found["metrics"],
            intervals=found["intervals"],
            against_whole=(
                paired_metrics(asked.queries, protocol, whole, rankings)
                if whole is not None
                else {}
            ),
        )

    def _own(self, stage: str) -> Rankings:
        if stage not in self._whole:
            self._whole[stage] = self._ranked(self._recorded.states, self._knobs, stage)
        return self._whole[stage]

    def _ranked(self, states: Mapping[str, QueryState], knobs: Knobs, stage: str) -> Rankings:
        """query id -> ids of one stage, as many as the metrics look at."""
        protocol = self._around.asked.benchmark.protocol
        deepest = max((*protocol.recall_ks, *protocol.map_ks, *protocol.hits_ks), default=0)
        by_query = rank_run(states, knobs).gallery
        return {
            query_id: [self._ids[row] for row in by_stage[stage][:deepest]]
            if stage in by_stage
            else None
            for query_id, by_stage in by_query.items()
        }


_GRID = {
    "rrf_k": "rrf_ks",
    "text_weight": "text_weights",
    "num_questions": "num_questions",
    "top_k": "top_ks",
}
