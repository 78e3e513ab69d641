"""The results of the cases: a line each for the terminal, a table for the page."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tests.faults.catalogue import Result
from tests.faults.watched_run import RECOVERY_LIMIT_S
from tests.faults.workplace import CALL_MS, WINDOW, Workplace

_HELD = re.compile(r"^\d+ of \d+ cases held(, \d+ skipped)?")


def line(result: Result) -> str:
    """One case for reading, with everything that was noted of it below."""
    outcome = result.outcome
    shown = (
        f"{result.verdict:<8}{result.case.name:<22}attempted {outcome.attempted}  "
        f"recorded {outcome.recorded}  lost {outcome.lost}  duplicated {outcome.duplicated}  "
        f"recovery {_recovery(result)} s  ({result.seconds:.0f} s in all)"
    )
    notes = [outcome.skipped, *outcome.problems, *outcome.remarks]
    return "\n        ".join([shown, *(note for note in notes if note)])


def table(results: Sequence[Result], workplace: Workplace, measured_on: str) -> str:
    """Markdown: what the table was measured on, and one row per case."""
    rows = [_row(result) for result in results]
    head = [
        measured_on,
        "",
        f"{_held(rows)}. {workplace.task.queries} queries; {WINDOW} under way at a time unless a "
        f"case needs more; {CALL_MS:g} ms per call of a stand-in model; settings as shipped "
        "unless a remark says otherwise; "
        f"the undisturbed run took {workplace.reference.seconds:.1f} s. Recovery limit "
        f"{RECOVERY_LIMIT_S:g} s.",
        "",
        "| case | what is done | what must hold | attempted | recorded | lost | duplicated "
        "| recovery, s | | remarks |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    text = "\n".join([*head, *rows])
    return text.replace(str(workplace.root), "…")  # no path of one machine on the page


def measured_again(
    former: str, results: Sequence[Result], workplace: Workplace, measured_on: str
) -> str:
    """A table with the rows of some cases replaced, and a line that says which and when.

    Raises: ValueError: the former table lacks one of the cases.
    """
    lines = former.splitlines()
    places = {line.split("|")[1].strip(" `"): at for at, line in enumerate(lines) if "| `" in line}
    for result in results:
        if result.case.name not in places:
            raise ValueError(f"{result.case.name} is not in the table: measure all cases first")
        lines[places[result.case.name]] = _row(result).replace(str(workplace.root), "…")
    names = ", ".join(f"`{result.case.name}`" for result in results)
    held = _held([lines[at] for at in places.values()])
    lines = [_HELD.sub(held, line) for line in lines]
    lines[1:1] = ["", f"Measured again, the rest being as it was: {names} ({measured_on})."]
    return "\n".join(lines)


def _held(rows: Sequence[str]) -> str:
    verdicts = [row.split(" | ")[8].strip("* ") for row in rows]
    skipped = verdicts.count("skipped")
    text = f"{verdicts.count('held')} of {len(rows)} cases held"
    return f"{text}, {skipped} skipped" if skipped else text


def _row(result: Result) -> str:
    case, outcome = result.case, result.outcome
    cells = [
        f"`{case.name}`",
        case.title,
        case.invariant,
        str(outcome.attempted),
        str(outcome.recorded),
        str(outcome.lost),
        str(outcome.duplicated),
        _recovery(result),
        f"**{result.verdict}**" if outcome.problems else result.verdict,
        "; ".join(note for note in (outcome.skipped, *outcome.problems, *outcome.remarks) if note),
    ]
    return f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ' ') for cell in cells)} |"


def _recovery(result: Result) -> str:
    recovery_s = result.outcome.recovery_s
    return "-" if recovery_s is None else f"{recovery_s:.1f}"
