"""Replays, sweeps and restored records of the runs on this machine's disk: what `xr` calls.

Needs the volume with runs, galleries and image databases, and the data sets' files; no Redis, no
gateway, no model.
"""

from __future__ import annotations

import asyncio
import datetime
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from broker.agents_roster import clip_label
from broker.evaluation import deviations
from broker.manifest import commit, versions
from broker.query_state import STATE_VERSION, QueryState
from broker.recorded_run import RecordedRun, Surroundings, open_recorded_run, open_surroundings
from broker.replay import After, changes, check_replayable, replay
from broker.run_results import RunQuestions, write_results
from broker.run_status import FINISHED
from broker.run_store import (
    LOG,
    METRICS,
    RunRequest,
    RunStore,
    create_run,
    read_json,
    run_folder,
)
from broker.sweep import Grid, combinations, sweep
from shared import atomic_files
from shared.knobs import Knobs, from_mapping, to_mapping
from shared.settings import Settings


class ReplayReport(msgspec.Struct, frozen=True, kw_only=True):
    """A replayed run.

    Attributes:
        changed: knob -> [recorded, replayed].
        coverage: the share of the wanted answers about candidates that the record holds; the
            figures are those of a live run at 1 only.
        metrics: stage -> metric -> fraction.
    """

    id: str
    run_folder: str
    replayed: str
    after: str
    changed: dict[str, tuple[Any, Any]]
    coverage: float
    metrics: dict[str, dict[str, float]]


class SweepReport(msgspec.Struct, frozen=True, kw_only=True):
    """The table of a sweep: one row a combination, columns in the order of `columns`.

    Attributes:
        intervals: per row: "stage.metric" -> 95 % bounds.
    """

    run: str
    dataset: str
    split: str
    queries: int
    columns: tuple[str, ...]
    rows: list[dict[str, Any]]
    intervals: list[dict[str, Sequence[float]]]


def replay_run(
    settings: Settings,
    run: str,
    changed: Mapping[str, Any],
    after: After = "imagination",
    name: str = "",
) -> ReplayReport:
    """Write a run that was not run: another's recorded answers under changed knobs.

    Args:
        run: id or folder of a finished run.
        changed: the knobs that are to differ.
        name: part of the new run folder's name.
    Raises: ConfigurationError: the record does not hold what these knobs need. DatasetError: the
        data set, gallery or image database is gone.
    """
    recorded = open_recorded_run(settings.runs_folder, run)
    knobs = from_mapping({**to_mapping(recorded.knobs), **changed})
    check_replayable(recorded.knobs, knobs, after)
    around = open_surroundings(settings, recorded)
    replayed = replay(
        recorded.states, around.asked.queries, around.space, knobs, around.database, after
    )
    provenance = {
        "run": recorded.run_id,
        "after": after,
        "changed": changes(recorded.knobs, knobs),
        "coverage": replayed.coverage,
    }
    run_id = _write_run(
        settings, recorded, around, knobs, replayed.states, provenance, name or "replay"
    )
    metrics = read_json(settings.runs_folder, run_id, METRICS) or {}
    return ReplayReport(
        id=run_id,
        run_folder=str(run_folder(settings.runs_folder, run_id)),
        replayed=recorded.run_id,
        after=after,
        changed=changes(recorded.knobs, knobs),
        coverage=replayed.coverage,
        metrics=metrics.get("methods", {}),
    )


def sweep_run(
    settings: Settings,
    run: str,
    grid: Grid,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SweepReport:
    """Metrics of every combination of a grid, from the states of one run.

    Args:
        progress: called with (combinations done, in all).
    Raises: as `replay_run`, and ConfigurationError: a value beyond what was recorded.
    """
    recorded = open_recorded_run(settings.runs_folder, run)
    wanted = combinations(recorded.knobs, grid)
    for knobs in wanted:
        check_replayable(recorded.knobs, knobs)
    around = open_surroundings(settings, recorded)
    benchmark, queries = around.asked.benchmark, around.asked.queries
    outcomes = sweep(
        recorded.states, queries, benchmark.protocol, around.space, wanted, around.database,
        around.gallery.image_ids.__getitem__,
    )  # fmt: skip
    rows: list[dict[str, Any]] = []
    intervals: list[dict[str, Sequence[float]]] = []
    for outcome in outcomes:
        varied = {
            "fusion": outcome.knobs.fusion,
            "text_weight": outcome.knobs.text_weight,
            "rrf_k": outcome.knobs.rrf_k if outcome.knobs.fusion == "rrf" else None,
            "top_k": outcome.knobs.top_k,
            "num_questions": outcome.knobs.num_questions,
            "coverage": outcome.coverage,
        }
        rows.append(varied | _flat(outcome.metrics))
        intervals.append(_flat(outcome.intervals))
        progress(len(rows), len(wanted))
    return SweepReport(
        run=recorded.run_id,
        dataset=benchmark.name,
        split=benchmark.split,
        queries=len(queries),
        columns=tuple(dict.fromkeys(name for row in rows for name in row)),
        rows=rows,
        intervals=intervals,
    )


def _flat(by_stage: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        f"{stage}.{metric}": value
        for stage, metrics in by_stage.items()
        for metric, value in metrics.items()
    }


def _write_run(
    settings: Settings,
    recorded: RecordedRun,
    around: Surroundings,
    knobs: Knobs,
    states: Mapping[str, QueryState],
    provenance: Mapping[str, Any],
    name: str,
) -> str:
    """A whole run folder, built aside and moved into place; returns the run's id."""
    defaults = to_mapping(Knobs())
    request = RunRequest(
        dataset=recorded.request.dataset,
        split=recorded.request.split,
        name=name,
        knobs={key: value for key, value in to_mapping(knobs).items() if value != defaults[key]},
        limit=recorded.request.limit,
        profile=recorded.request.profile,
    )
    manifest = {
        **recorded.manifest,
        "state_version": STATE_VERSION,
        "knobs": to_mapping(knobs),
        "deviations": deviations(around.asked.benchmark, knobs),
        "settings": settings.masked(),
        "versions": versions(),
        "commit": commit(),
        "replayed": dict(provenance),
    }
    clip = clip_label(recorded.manifest["agents"].get("similarity"), request.profile or "clip")
    with tempfile.TemporaryDirectory(prefix=".replay-", dir=settings.runs_folder) as scratch:
        building = Path(scratch)
        run_id = create_run(building, request, clip)
        store = RunStore(building, run_id)
        asyncio.run(_record(store, states))
        store.keep_manifest(manifest, ())
        store.keep_prompts(recorded.prompts())
        asked = RunQuestions(
            around.asked.benchmark, around.asked.queries, around.asked.gallery, knobs
        )
        write_results(store, asked)
        note = f"replayed {provenance['run']} after {provenance['after']}"
        atomic_files.write_bytes(store.folder / LOG, f"{note}: {provenance['changed']}\n".encode())
        store.write_status(_status(run_id, store.folder, note))
        asyncio.run(store.close())
        place = settings.runs_folder / store.folder.relative_to(building)
        place.parent.mkdir(exist_ok=True)
        store.folder.rename(place)
        atomic_files.flush_folder(place.parent)
    return run_id


async def _record(store: RunStore, states: Mapping[str, QueryState]) -> None:
    await asyncio.gather(*(store.record(state) for state in states.values()))


def _status(run_id: str, folder: Path, note: str) -> dict[str, Any]:
    metrics = msgspec.json.decode((folder / METRICS).read_bytes())
    return {
        "id": run_id,
        "state": FINISHED,
        "phase": "done",
        "note": note,
        "progress": [],
        "counts": metrics["counts"],
        "error": "",
        "submitted_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "owner": 0,
    }
