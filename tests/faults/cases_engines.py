"""What goes wrong inside an agent: its engine dies, hangs, has no room; a poisonous query."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from shared.datasets import load_dataset
from tests.faults.catalogue import case
from tests.faults.system import ROOT, System, wait_for
from tests.faults.watched_run import Outcome, WatchedRun, recorded_states
from tests.faults.workplace import Workplace

_ENGINE_TIMEOUT_S = 4
_POISON_LEASE_S = 4
_LARGEST_CALL = 3
OTHERS_UNTOUCHED = "that query is recorded as failed, with the reason; all others: the same bytes"


@case("engine-dies", "the question agent's engine is lost (as a GPU context is)")
def engine_dies(workplace: Workplace, name: str) -> Outcome:
    with workplace.system(name) as system, WatchedRun.submit(system, workplace.task) as run:
        run.reach(workplace.draw(name).uniform(0.2, 0.4))
        ask_for_fault(workplace, name, "evaluator.die")
        died_at = await_fault(workplace, name, "evaluator", "died")
        return run.judge(workplace.reference, died_at)


@case("engine-hangs", "a call of the question agent's engine never returns")
def engine_hangs(workplace: Workplace, name: str) -> Outcome:
    given = {"XR_ENGINE_TIMEOUT_S": str(_ENGINE_TIMEOUT_S)}
    with (
        workplace.system(name, given=given) as system,
        WatchedRun.submit(system, workplace.task) as run,
    ):
        run.reach(workplace.draw(name).uniform(0.2, 0.4))
        ask_for_fault(workplace, name, "evaluator.hang")
        hung_at = await_fault(workplace, name, "evaluator", "hung")
        remark = f"XR_ENGINE_TIMEOUT_S={_ENGINE_TIMEOUT_S}"
        return run.judge(workplace.reference, hung_at, remarks=(remark,))


@case("engine-out-of-memory", "calls of more than 3 requests run out of memory for a while")
def engine_out_of_memory(workplace: Workplace, name: str) -> Outcome:
    with workplace.system(name) as system, WatchedRun.submit(system, workplace.task) as run:
        run.reach(0.2)
        ask_for_fault(workplace, name, "imagination.oom", str(_LARGEST_CALL))
        full_at = await_fault(workplace, name, "imagination", "out of memory")
        run.reach(0.6)
        stop_fault(workplace, name, "imagination.oom")
        refused = len(fault_log(workplace, name, "imagination"))
        restarts = system.log("imagination-1").count("models of profile") - 1
        return run.judge(
            workplace.reference,
            full_at,
            remarks=(f"{refused} calls refused, the agent restarted {restarts} times",),
            problems=() if restarts == 0 else ("the agent did not survive it",),
        )


@case(
    "item-raises",
    "the engine raises on every batch that holds one certain query",
    OTHERS_UNTOUCHED,
)
def item_raises(workplace: Workplace, name: str) -> Outcome:
    query_id, text = unlike_any_other(workplace)
    with workplace.system(name) as system:
        ask_for_fault(workplace, name, "proposer.raises", text)
        with WatchedRun.submit(system, workplace.task) as run:
            outcome = run.judge(workplace.reference, None, may_differ={query_id})
            return _with_reason(outcome, run.folder, query_id)


@case(
    "poison",
    "a query that kills every question agent that takes it",
    f"a dead letter after 3 deliveries; {OTHERS_UNTOUCHED}",
)
def poison(workplace: Workplace, name: str) -> Outcome:
    query_id, text = unlike_any_other(workplace)
    given = {"XR_LEASE_S": str(_POISON_LEASE_S)}
    with workplace.system(name, given=given) as system:
        ask_for_fault(workplace, name, "proposer.poison", text)
        with WatchedRun.submit(system, workplace.task) as run:
            poisoned_at = await_fault(workplace, name, "proposer", "poisoned")
            run.end()
            deaths = len(fault_log(workplace, name, "proposer"))
            stop_fault(workplace, name, "proposer.poison")
            problems = [] if deaths == 3 else [f"{deaths} agents died of it, not 3"]
            problems += _dead_letter_problems(system, text)
            outcome = run.judge(
                workplace.reference,
                poisoned_at,
                may_differ={query_id},
                remarks=(f"{deaths} agents died of it; XR_LEASE_S={_POISON_LEASE_S}",),
                problems=tuple(problems),
            )
            return _with_reason(outcome, run.folder, query_id)


def _dead_letter_problems(system: System, text: str) -> list[str]:
    """`xr dead list`, `show` and `retry` do what they say."""
    listed = json.loads(xr(system, "dead", "list", "--json"))
    letters = [
        (entry["agent"], letter["entry_id"]) for entry in listed for letter in entry["dead_letters"]
    ]
    if len(letters) != 1:
        return [f"xr dead list shows {len(letters)} dead letters, not 1"]
    agent, entry_id = letters[0]
    problems = []
    if text not in xr(system, "dead", "show", agent, entry_id):
        problems.append("xr dead show does not show the message")
    xr(system, "dead", "retry", agent, entry_id)
    wait_for("the retried message is answered", lambda: system.queued(agent) == 0, 60.0)
    if system.client.dead_letters(agent).dead_letters:
        problems.append("the message is a dead letter again after xr dead retry")
    return problems


def xr(system: System, *arguments: str) -> str:
    """The output of an `xr` command, as a user of this system would run it."""
    completed = subprocess.run(
        [sys.executable, "-m", "gateway.cli", *arguments],
        cwd=ROOT, env=system.environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if completed.returncode:
        return f"exit status {completed.returncode}: {completed.stderr[-500:]}"
    return completed.stdout


def unlike_any_other(workplace: Workplace) -> tuple[str, str]:
    """A query drawn from the task, and its modification text, which no other query's contains."""
    task = workplace.task
    queries = load_dataset(task.dataset, task.split, workplace.data_root).queries[: task.queries]
    texts = [query.modification_text for query in queries]
    alone = [
        query
        for query in queries[task.queries // 5 :]
        if sum(query.modification_text in text for text in texts) == 1
        and len(query.modification_text) > 20
    ]
    chosen = workplace.draw("marked query").choice(alone)
    return chosen.query_id, chosen.modification_text


def ask_for_fault(workplace: Workplace, name: str, fault: str, content: str = "") -> None:
    (workplace.control(name) / fault).write_text(content)


def stop_fault(workplace: Workplace, name: str, fault: str) -> None:
    (workplace.control(name) / fault).unlink(missing_ok=True)


def await_fault(workplace: Workplace, name: str, engine: str, what: str) -> float:
    """The time when an engine's log says that the fault has struck."""
    wait_for(
        f"the {engine} engine has {what}",
        lambda: any(what in line for line in fault_log(workplace, name, engine)),
        120.0,
    )
    return time.monotonic()


def fault_log(workplace: Workplace, name: str, engine: str) -> list[str]:
    path = workplace.control(name) / f"{engine}.log"
    return path.read_text().splitlines() if path.is_file() else []


def _with_reason(outcome: Outcome, folder: Path, query_id: str) -> Outcome:
    """The outcome, with what is recorded of the query that should have failed."""
    reasons = [state.reason for state in recorded_states(folder) if state.query_id == query_id]
    if not any(reasons):
        problem = f"no reason is recorded of query {query_id}"
        return replace(outcome, problems=(*outcome.problems, problem))
    return replace(outcome, remarks=(*outcome.remarks, f"recorded reason: {reasons[-1]}"))
