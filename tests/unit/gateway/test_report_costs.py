"""The costs of a run in its report."""

from __future__ import annotations

from pathlib import Path

from broker.run_costs import RunCosts, read_costs
from broker.run_report import RunReport, StageReport
from broker.run_store import COSTS, RunRequest, create_run, run_folder
from gateway.report.page import part_of_page, whole_page

SPENT: dict[str, dict[str, float]] = {
    "imagination": {"requests": 2, "decoded_tokens": 61},
    "question": {"requests": 12345, "cached_tokens": 700, "model_seconds": 1.256},
}


def _report(costs: dict[str, dict[str, float]]) -> RunReport:
    coarse = StageReport(
        stage="coarse", title="Coarse", metrics={"recall@1": 0.5}, intervals={},
        recall_curve=[0.5], median_rank=1.0,
    )  # fmt: skip
    return RunReport(
        run="demo/run", name="", dataset="demo", split="val", submitted_at="", gallery="demo",
        protocol="", deviations=[], queries=2, queries_in_data_set=2, scored=2,
        counts={}, models={}, knobs={},
        costs=costs, commit="", stages=[coarse], pipeline=["coarse"], gains=[], rank_changes=[],
        hardest=[], losses=[], failures=[], by_tag={}, published=(),
    )  # fmt: skip


def _no_picture(_: str) -> str:
    return ""


def _run_that_spent(runs: Path) -> str:
    run = create_run(runs, RunRequest(dataset="demo", split="val"), "clip")
    RunCosts(runs, run, run_folder(runs, run)).write(SPENT)
    return run


def test_a_report_has_the_costs_of_each_agent_as_costs_json_tells_them(tmp_path: Path) -> None:
    costs = read_costs(tmp_path, _run_that_spent(tmp_path))
    for page in (
        part_of_page(_report(costs), _no_picture),
        whole_page(_report(costs), _no_picture),
    ):
        table = page[page.index("<h2>Costs</h2>") :]
        assert '<th scope="col">imagination</th><th scope="col">question</th>' in table
        assert '<th scope="row">requests</th><td>2</td><td>12,345</td>' in table
        assert '<th scope="row">decoded tokens</th><td>61</td><td>–</td>' in table
        assert '<th scope="row">cached tokens</th><td>–</td><td>700</td>' in table
        assert '<th scope="row">model seconds</th><td>–</td><td>1.26</td>' in table


def test_a_report_without_costs_has_no_such_section() -> None:
    assert "<h2>Costs</h2>" not in part_of_page(_report({}), _no_picture)


def test_damaged_costs_do_not_take_the_report_away(tmp_path: Path) -> None:
    run = _run_that_spent(tmp_path)
    assert read_costs(tmp_path, run) == SPENT
    for damaged in ("{", "[]", '{"agents": 3}', '{"agents": {"question": {"requests": "many"}}}'):
        (run_folder(tmp_path, run) / COSTS).write_text(damaged)
        assert read_costs(tmp_path, run) == {}
