"""The fault suite's own parts, and one real case with few queries."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from broker.query_state import QueryState, encode_state
from broker.run_store import PREDICTIONS, STATES
from broker.state_log import frame
from gateway.records import BenchmarkView
from tests.benchmarks.load_report import Figure, table
from tests.benchmarks.workplace import DATASET, SPLIT, write_pictures
from tests.faults import __main__ as program
from tests.faults import page, report
from tests.faults.cases_kills import await_batch
from tests.faults.catalogue import CASES, SAME_BYTES, Case, Result, run_case
from tests.faults.engines import AcceleratorError, Faults, OutOfMemoryError
from tests.faults.system import ROOT, FaultSuiteError, System
from tests.faults.watched_run import Outcome, Reference, Task, WatchedRun, torn_files
from tests.faults.workplace import Workplace

FEW = Task(DATASET, SPLIT, 20, {"top_k": 10, "rank_depth": 30})
SHORT_LEASE = {"XR_LEASE_S": "2", "XR_WINDOW": "6"}


def test_a_killed_question_agent_changes_no_byte(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path, tmp_path / "data", FEW, seed=1)
    write_pictures(workplace.data_root, images=30, queries=FEW.queries, seed=1)
    with workplace.system("smoke", call_ms=60.0, given=SHORT_LEASE) as system:
        reference = workplace.undisturbed(system, FEW)
        with WatchedRun.submit(system, FEW) as run:
            run.reach(0.2)
            held = await_batch(system, "question", 0.3)
            killed = system.signal("question")
            outcome = run.judge(reference, time.monotonic())
        assert system.pid("question") != killed
    assert held > 0
    assert outcome.problems == ()
    assert (outcome.recorded, outcome.lost, outcome.duplicated) == (20, 0, 0)


# --- judging --------------------------------------------------------------------------------------

THREE = Task("demo", "val", 3)
LINES = [f'{{"query_id": "q{number}", "ranking": ["{number}"]}}' for number in range(3)]
UNDISTURBED = Reference("".join(f"{line}\n" for line in LINES).encode(), 1.0)


def a_run(folder: Path, states: list[QueryState], lines: list[str], state: str) -> WatchedRun:
    folder.mkdir()
    log = b"".join(frame(encode_state(recorded)) for recorded in states)
    (folder / STATES).write_bytes(log)
    (folder / PREDICTIONS).write_text("".join(f"{line}\n" for line in lines))
    view = BenchmarkView.model_validate(
        {
            "id": "run", "dataset": "demo", "split": "val", "name": "", "state": state,
            "run_folder": str(folder), "error": "it broke",
        }
    )  # fmt: skip
    client = SimpleNamespace(benchmark=lambda _: view)
    return WatchedRun(cast(System, SimpleNamespace(client=client)), THREE, view)


def ok(number: int) -> QueryState:
    return QueryState(query_id=f"q{number}", status="ok")


def failed(number: int) -> QueryState:
    return QueryState(query_id=f"q{number}", status="failed", reason="poisoned")


ALL = [ok(0), ok(1), ok(2)]


@pytest.mark.parametrize(
    ("states", "lines", "state", "problem"),
    [
        (ALL, LINES, "finished", None),
        (ALL, LINES, "failed", "the run is failed: it broke"),
        (ALL[:2], LINES, "finished", "1 queries lost, 0 recorded again"),
        ([*ALL, ok(0)], LINES, "finished", "0 queries lost, 1 recorded again"),
        ([ok(0), failed(1), ok(2)], LINES, "finished", "1 queries failed, q1 so: poisoned"),
        (ALL, [LINES[0], LINES[1].replace('"1"', '"9"'), LINES[2]], "finished",
         "the predictions of 1 queries differ, the first of them q1"),
        (ALL, LINES[::-1], "finished",
         "predictions.jsonl holds other queries, or in another order"),
    ],
)  # fmt: skip
def test_a_run_is_judged_by_its_records_and_bytes(
    tmp_path: Path, states: list[QueryState], lines: list[str], state: str, problem: str | None
) -> None:
    outcome = a_run(tmp_path / "run", states, lines, state).judge(UNDISTURBED, None)
    assert outcome.problems == (() if problem is None else (problem,))


def test_a_query_meant_to_fail_may_differ_and_must_fail(tmp_path: Path) -> None:
    lines = [LINES[0], LINES[1].replace('"1"', ""), LINES[2]]
    states = [ok(0), failed(1), ok(2)]
    fine = a_run(tmp_path / "a", states, lines, "finished")
    assert fine.judge(UNDISTURBED, None, may_differ={"q1"}).problems == ()
    untouched = a_run(tmp_path / "b", ALL, LINES, "finished")
    (problem,) = untouched.judge(UNDISTURBED, None, may_differ={"q1"}).problems
    assert problem == "queries that should have failed did not: q1"


def test_recovery_is_the_longest_pause_from_the_fault_on(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", ALL, LINES, "finished")
    run.end()
    run._recorded_at = [10.0, 19.0, 20.0, 24.0, 25.0]
    assert run.longest_pause_s(since=10.0) == 9.0
    assert run.longest_pause_s(since=19.5) == 4.0
    assert run.longest_pause_s(since=30.0) == 0.0


def test_torn_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "whole.json").write_text("{}")
    (tmp_path / "half.json").write_text('{"a": ')
    (tmp_path / "half.jsonl").write_text('{"a": 1}\n{"a"')
    assert [line.split()[0] for line in torn_files(tmp_path)] == ["half.json", "half.jsonl"]


def test_a_case_that_cannot_go_on_has_failed(tmp_path: Path) -> None:
    def play(workplace: Workplace, name: str) -> Outcome:
        raise FaultSuiteError("the agent never took a batch")

    workplace = Workplace(tmp_path, tmp_path, THREE, seed=1)
    result = run_case(Case("stuck", "nothing", SAME_BYTES, play), workplace)
    assert result.verdict == "FAILED"
    assert "the agent never took a batch" in report.line(result)


# --- faults on demand -----------------------------------------------------------------------------


def test_an_engine_dies_once(tmp_path: Path) -> None:
    faults = Faults(str(tmp_path), "evaluator")
    (tmp_path / "evaluator.die").touch()
    (tmp_path / "proposer.die").touch()  # somebody else's
    with pytest.raises(AcceleratorError):
        faults.strike(["a"])
    faults.strike(["a"])
    assert (tmp_path / "evaluator.log").read_text() == "died in a call of 1\n"


@pytest.mark.parametrize(
    ("fault", "content", "struck", "spared", "error"),
    [
        ("oom", "2", ["a", "b", "c"], ["a", "b"], OutOfMemoryError),
        ("raises", "make it red", ["x", "please make it red"], ["make it blue"], ValueError),
    ],
)
def test_a_lasting_fault_strikes_until_it_is_taken_away(
    tmp_path: Path,
    fault: str,
    content: str,
    struck: list[str],
    spared: list[str],
    error: type[Exception],
) -> None:
    faults = Faults(str(tmp_path), "clip")
    (tmp_path / f"clip.{fault}").write_text(content)
    for _ in range(2):
        with pytest.raises(error):
            faults.strike(struck)
    faults.strike(spared)
    (tmp_path / f"clip.{fault}").unlink()
    faults.strike(struck)


def test_the_next_version_reads_one_more_and_replies_as_before() -> None:
    script = """
from tests.faults.next_version import become_next_version
version = become_next_version()
from shared.contracts import messages
from shared.contracts.skills import ImagineText
request = messages.RequestMessage(message_id="m", job_id="j", query_id="q", reply_to="xr:reply:r",
                                  body=ImagineText("t"))
reply = messages.ReplyMessage(message_id="m", worker="w", body=messages.Failure("no"))
assert messages.SCHEMA_VERSION == request.schema_version == version
assert reply.schema_version == version - 1
messages.decode(messages.encode(request), messages.RequestMessage)
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


# --- the page -------------------------------------------------------------------------------------


def test_writing_a_section_leaves_the_others(tmp_path: Path) -> None:
    written = tmp_path / "reliability.md"
    page.write_section("bus", "the first table", written)
    page.write_section("cases", "| a \\| b |", written)
    page.write_section("bus", "second\n\nlines", written)
    text = written.read_text()
    assert "the first table" not in text
    assert "<!-- bus -->\nsecond\n\nlines\n<!-- /bus -->" in text
    assert "<!-- cases -->\n| a \\| b |\n<!-- /cases -->" in text
    assert text.count("*Not measured yet.*") == 2
    with pytest.raises(ValueError, match="no place for other"):
        page.write_section("other", "", written)


def test_a_row_says_what_was_wrong(tmp_path: Path) -> None:
    def result(outcome: Outcome) -> Result:
        return Result(Case("some-case", "do harm", SAME_BYTES, CASES["poison"].play), outcome, 9.0)

    workplace = Workplace(tmp_path, tmp_path, THREE, seed=1)
    workplace.reference = UNDISTURBED
    shown = report.table(
        [
            result(Outcome(3, 3, 0, 4.25, ("2 in hand",))),
            result(Outcome(3, 2, 1, None, (), (f"a | b in {tmp_path}/x",))),
            result(Outcome(skipped="needs root")),
        ],
        workplace,
        "commit abc",
    )
    assert "1 of 3 cases held, 1 skipped" in shown
    assert (
        f"| `some-case` | do harm | {SAME_BYTES} | 3 | 3 | 0 | 0 | 4.2 | held | 2 in hand |"
        in shown
    )
    assert "| 3 | 2 | 1 | 1 | - | **FAILED** | a / b in …/x |" in shown
    assert "| skipped | needs root |" in shown


def test_a_case_measured_again_takes_the_place_of_its_row(tmp_path: Path) -> None:
    def result(name: str, outcome: Outcome) -> Result:
        return Result(Case(name, "do harm", SAME_BYTES, CASES["poison"].play), outcome, 9.0)

    workplace = Workplace(tmp_path, tmp_path, THREE, seed=1)
    workplace.reference = UNDISTURBED
    failed = result("second", Outcome(3, 2, 1, None, (), ("torn",)))
    former = report.table([result("first", Outcome(3, 3, 0, 4.0)), failed], workplace, "commit abc")
    held = result("second", Outcome(3, 3, 0, 1.0))
    again = report.measured_again(former, [held], workplace, "commit def")
    assert "torn" not in again
    assert "commit abc" in again
    assert "2 of 2 cases held" in again
    assert "Measured again, the rest being as it was: `second` (commit def)." in again
    once_more = report.measured_again(again, [failed], workplace, "commit ghi")
    assert "1 of 2 cases held" in once_more
    assert "2 of 2 cases held" not in once_more
    with pytest.raises(ValueError, match="third is not in the table"):
        report.measured_again(former, [result("third", Outcome(3, 3, 0))], workplace, "commit def")


def test_a_missed_target_is_shown_as_such() -> None:
    shown = table([Figure("rate", "3", ">= 4", False), Figure("depth", "7")])
    assert "| rate | 3 | >= 4 | **missed** |" in shown
    assert "| depth | 7 |  |  |" in shown


def test_an_unknown_case_is_refused_with_the_known_ones(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as refused:
        program.main(["kill-everybody"])
    assert refused.value.code == 2
    assert "kill-question" in capsys.readouterr().err


def test_the_page_says_what_happens_to_every_process_that_is_killed() -> None:
    words = Path(page.__file__).with_name("page.md").read_text()
    for part in ("an agent", "the coordinator's process", "the RQ worker", "the gateway", "Redis"):
        assert f"\n| {part}" in words
