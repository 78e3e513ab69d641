"""Beginning a run with the recorded states of another: its first steps are taken over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from broker.agents_client import Ask
from broker.recorded_answers import (
    COMPARISON,
    IMAGINATION,
    RANKING,
    VERIFICATION,
    RecordedAnswers,
    Step,
    ranked_as_recorded,
)
from broker.recorded_run import RecordedRun, open_recorded_run
from broker.replay import check_same_imagination, check_same_lists, check_same_verification
from broker.run_store import RunRequest
from shared.contracts.skills import AgentName
from shared.datasets import canonical_name
from shared.errors import ConfigurationError
from shared.knobs import Knobs
from shared.settings import Settings

_STEPS: tuple[tuple[Step, ...], ...] = (
    IMAGINATION,
    RANKING,
    VERIFICATION,
    COMPARISON,
)
_AGENTS: tuple[AgentName, ...] = ("imagination", "similarity", "question")


def restored(settings: Settings, request: RunRequest, knobs: Knobs) -> RecordedRun | None:
    """The run whose states a request begins with; None when it does not.

    Raises: ConfigurationError: no such run, or what is taken over of it does not fit the request;
        says what differs.
    """
    if not request.restore and not request.skip_stages:
        return None
    if not request.restore or not 1 <= request.skip_stages <= len(_STEPS):
        raise ConfigurationError(
            f"restore is {request.restore!r} and skip_stages {request.skip_stages}: name a run and"
            " how many of its steps to take over: 1 imagination, 2 and ranking, 3 and verification,"
            " 4 and comparison"
        )
    run = open_recorded_run(settings.runs_folder, request.restore)
    before, now = ((canonical_name(asked.dataset), asked.split) for asked in (run.request, request))
    if before != now:
        raise ConfigurationError(
            f"run {run.run_id} is about {' '.join(before)}, not about {' '.join(now)}"
        )
    check_same_imagination(run.knobs, knobs)
    if request.skip_stages >= 2:
        check_same_lists(run.knobs, knobs)
    if request.skip_stages >= 3:
        check_same_verification(run.knobs, knobs)
    return run


def check_surroundings(run: RecordedRun, skip_stages: int, manifest: Mapping[str, Any]) -> None:
    """Refuse a record made of other images, or by other models, than the new run is about.

    Args:
        manifest: of the new run.
    Raises: ConfigurationError: says what differs.
    """
    same = ["gallery"] if skip_stages == 1 else ["gallery", "database"]
    for name in same:
        before, now = run.manifest[name]["key"], manifest[name]["key"]
        if before != now:
            what = {"gallery": "gallery", "database": "image database"}[name]
            raise ConfigurationError(f"run {run.run_id} has the {what} {before}, this run {now}")
    for agent in _AGENTS[:skip_stages]:
        before = run.manifest["agents"].get(agent, {})
        now = manifest["agents"].get(agent, before)  # not needed any more: nothing to compare
        changed = sorted(field for field in {*before, *now} if before.get(field) != now.get(field))
        if changed:
            raise ConfigurationError(
                f"run {run.run_id} was answered by another {agent} agent: {changed[0]} was"
                f" {before.get(changed[0])!r}, is {now.get(changed[0])!r}; its steps cannot be"
                " taken over"
            )


def answers_of(run: RecordedRun, skip_stages: int, ask: Ask) -> RecordedAnswers:
    """The recorded answers of the first steps; the agents give all others.

    The agents also answer what the record does not hold: queries that failed or were not asked, and
    candidates that were not verified.
    """
    steps = [step for kept in _STEPS[:skip_stages] for step in kept]
    return RecordedAnswers(run.states, ranked_as_recorded, steps, ask)
