"""The cases by name, and how one of them is run."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from shared.errors import XRError
from tests.faults.system import FaultSuiteError
from tests.faults.watched_run import Outcome
from tests.faults.workplace import Workplace

SAME_BYTES = "the same bytes, every query recorded once"
Play = Callable[[Workplace, str], Outcome]


@dataclass(frozen=True)
class Case:
    """One fault. `title` says what is done, `invariant` what must hold nevertheless."""

    name: str
    title: str
    invariant: str
    play: Play


@dataclass(frozen=True)
class Result:
    """What a case has shown, and how long it took altogether."""

    case: Case
    outcome: Outcome
    seconds: float

    @property
    def verdict(self) -> str:
        if self.outcome.skipped:
            return "skipped"
        return "FAILED" if self.outcome.problems else "held"


CASES: dict[str, Case] = {}


def case(name: str, title: str, invariant: str = SAME_BYTES) -> Callable[[Play], Play]:
    """Register a function as a case; it gets the workplace and its own name."""

    def register(play: Play) -> Play:
        CASES[name] = Case(name, title, invariant, play)
        return play

    return register


def run_case(chosen: Case, workplace: Workplace) -> Result:
    """Play a case; whatever it raises is its failure."""
    began = time.monotonic()
    try:
        outcome = chosen.play(workplace, chosen.name)
    except (FaultSuiteError, XRError) as error:
        outcome = Outcome(attempted=workplace.task.queries, problems=(str(error),))
    except Exception as error:
        traceback.print_exc()
        text = f"the case itself broke: {type(error).__name__}: {error}"
        outcome = Outcome(attempted=workplace.task.queries, problems=(text,))
    if not outcome.problems:
        workplace.forget(chosen.name)
    elif not outcome.skipped:
        print(f"what {chosen.name} left: {workplace.root / chosen.name}", flush=True)
    return Result(chosen, outcome, time.monotonic() - began)
