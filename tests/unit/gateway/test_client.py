"""The client and what the command line makes of answers, over a transport in memory."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from rich.console import Console

from gateway.cli import exit_status
from gateway.client import Client, GatewayError, GatewayUnreachableError
from gateway.commands.benchmarks import RunFailedError
from gateway.commands.output import metrics_table, parse_knobs, phase_bars, runs_table
from gateway.records import BenchmarkView, PhaseProgress, RunState
from gateway.supervisor import ServiceFailedError
from shared.errors import ConfigurationError, TransientError

Handler = Callable[[httpx.Request], httpx.Response]


def client_over(handler: Handler) -> Client:
    return Client("http://gateway", transport=httpx.MockTransport(handler))


def view(state: RunState) -> httpx.Response:
    run = BenchmarkView(id="r", dataset="demo", split="val", name="", state=state)
    return httpx.Response(200, json=run.model_dump(mode="json"))


def test_following_a_run_outlives_a_restart_of_the_gateway() -> None:
    # Given a gateway that is away between two answers
    answers: list[httpx.Response | Exception] = [
        view("running"),
        httpx.ConnectError("refused"),
        httpx.ConnectError("refused"),
        view("finished"),
    ]

    def handler(_request: httpx.Request) -> httpx.Response:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    # Then the run is followed to its end
    states = [run.state for run in client_over(handler).follow("r", sleep=lambda _s: None)]
    assert states == ["running", "finished"]


def test_following_gives_up_on_a_gateway_that_stays_away() -> None:
    def handler(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(GatewayUnreachableError, match="no gateway answers at http://gateway"):
        list(client_over(handler).follow("r", patience_s=-1.0, sleep=lambda _s: None))


def test_a_refusal_carries_the_problem_and_a_foreign_one_is_told_too() -> None:
    problem = {"type": "urn:xr:problem:x", "title": "t", "status": 404, "detail": "no such run"}
    with pytest.raises(GatewayError, match="no such run") as refused:
        client_over(lambda _request: httpx.Response(404, json=problem)).benchmark("r")
    assert refused.value.problem.status == 404
    with pytest.raises(GatewayError, match="answered 502: <html>"):
        client_over(lambda _request: httpx.Response(502, text="<html>")).benchmark("r")


@pytest.mark.parametrize(("status", "expected"), [(404, 2), (422, 2), (500, 1), (503, 1)])
def test_the_exit_status_tells_the_users_mistake_from_a_failure(status: int, expected: int) -> None:
    body = {"type": "about:blank", "title": "t", "status": status, "detail": "d"}
    with pytest.raises(GatewayError) as refused:
        client_over(lambda _request: httpx.Response(status, json=body)).agents()
    assert exit_status(refused.value) == expected


def test_other_errors_have_their_exit_status() -> None:
    assert exit_status(ConfigurationError("x")) == 2
    assert exit_status(RunFailedError("x")) == 1
    assert exit_status(TransientError("x")) == 1
    assert exit_status(ServiceFailedError("x", misconfigured=True)) == 2
    assert exit_status(ServiceFailedError("x", misconfigured=False)) == 1


def test_knobs_are_json_where_they_can_be() -> None:
    given = ["top_k=50", "fusion=sum", "baselines=true", 'stages=["coarse"]', "text_weight=0.2"]
    assert parse_knobs(given) == {
        "top_k": 50,
        "fusion": "sum",
        "baselines": True,
        "stages": ["coarse"],
        "text_weight": 0.2,
    }
    with pytest.raises(ConfigurationError, match="name=value"):
        parse_knobs(["top_k"])


def test_the_table_is_in_percent_and_marks_what_is_not_there() -> None:
    table = metrics_table({"coarse": {"Recall@1": 0.5}, "verified": {"mAP@5": 0.125}})
    columns = [list(column.cells) for column in table.columns]
    assert columns == [["coarse", "verified"], ["50.00", "-"], ["-", "12.50"]]


def test_each_phase_has_one_bar_that_is_moved() -> None:
    with phase_bars() as bars:
        bars.show([PhaseProgress(phase="gallery", done=1, total=2)])
        bars.show(
            [
                PhaseProgress(phase="gallery", done=2, total=2),
                PhaseProgress(phase="queries", done=3, total=9, failed=1, rate_per_s=2.0),
            ]
        )
        tasks = bars.progress.tasks
    assert [(task.description, task.completed, task.total) for task in tasks] == [
        ("gallery", 2, 2),
        ("queries", 3, 9),
    ]
    assert "1 failed" in tasks[1].fields["remarks"]


def test_ids_of_runs_are_never_cut() -> None:
    long_id = "demo_val~" + "x" * 90
    run = BenchmarkView(id=long_id, dataset="demo", split="val", name="", state="queued")
    narrow = Console(width=40)
    with narrow.capture() as printed:
        narrow.print(runs_table([run]), crop=False)
    assert long_id in printed.get()
