"""`xr search` and `xr bench`: what is asked of the gateway, what is printed, how they end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import pytest

from gateway.cli import DONE, FAILED, USAGE, run
from gateway.commands import benchmarks, search
from gateway.records import (
    BenchmarkView,
    Hit,
    Imagination,
    Proposition,
    RunState,
    SearchRequest,
    SearchView,
)

ANSWER = SearchView(
    gallery="g", database="d", stage="verified", imagination=Imagination(), seconds=0.25,
    hits=[
        Hit(rank=1, image_id="[7]", caption="a red [cup]", coarse_rank=3,
            image_answers=[0.9, 0.8], caption_answers=[0.2, 0.1]),
        Hit(rank=2, image_id="8"),
    ],
    propositions=[
        Proposition(question="is it red?", expected=True),
        Proposition(question="is there a dog?", expected=False),
    ],
)  # fmt: skip


def ended(state: RunState) -> BenchmarkView:
    return BenchmarkView(
        id="demo_val~r", dataset="demo", split="val", name="", state=state, error="no agent",
        metrics={"verified": {"recall@1": 0.5}}, run_folder="/runs/r", phase="queries",
    )  # fmt: skip


class FakeClient:
    """Notes what it is asked."""

    def __init__(self, state: RunState = "finished") -> None:
        self.state = state
        self.searched: list[SearchRequest] = []
        self.submitted: list[tuple[str, str, dict[str, Any]]] = []
        self.followed: list[str] = []

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is open."""

    def search(self, request: SearchRequest) -> SearchView:
        self.searched.append(request)
        return ANSWER

    def submit(self, dataset: str, split: str, **options: Any) -> BenchmarkView:
        self.submitted.append((dataset, split, options))
        return ended("queued")

    def follow(self, benchmark_id: str, **options: object) -> Iterator[BenchmarkView]:
        self.followed.append(benchmark_id)
        yield ended("running")
        yield ended(self.state)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    made = FakeClient()
    made_for: list[str | None] = []

    def connect(gateway: str | None) -> FakeClient:
        made_for.append(gateway)
        return made

    monkeypatch.setattr(search, "connect", connect)
    monkeypatch.setattr(benchmarks, "connect", connect)
    made.urls = made_for  # type: ignore[attr-defined]
    return made


def test_a_search_asks_for_all_that_was_said(client: FakeClient) -> None:
    options = "--gallery holidays --reference 7 --k 3 --depth 20 --negative dogs --knob rrf_k=10"
    given = ["search", "at night", *options.split(), "--timeout", "5"]
    assert run(given) == DONE
    (asked,) = client.searched
    assert (asked.gallery, asked.reference_image_id, asked.modification_text) == (
        "holidays", "7", "at night",
    )  # fmt: skip
    assert (asked.k, asked.depth, asked.negative_text, asked.timeout_s) == (3, 20, "dogs", 5.0)
    assert asked.knobs == {"rrf_k": 10}


def test_hits_are_shown_with_marks_and_the_questions(
    client: FakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["search", "at night", "--gallery", "g"]) == DONE
    shown = capsys.readouterr().out.splitlines()
    first = next(line for line in shown if "[7]" in line)
    # half of the answers fit: that is enough; what is asked in brackets is no markup
    assert "✔✔" in first
    assert "a red [cup]" in first
    second = next(line for line in shown if line.split()[:1] == ["2"])
    assert "··" in second  # nobody asked
    assert "1. is it red? yes" in shown
    assert "2. is there a dog? no" in shown
    assert "verified, 0.25 s" in shown[-1]


def test_json_is_the_whole_answer(client: FakeClient, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["search", "at night", "--gallery", "g", "--json"]) == DONE
    assert SearchView.model_validate_json(capsys.readouterr().out) == ANSWER


@pytest.mark.parametrize(
    "given",
    [["search", "", "--gallery", "g"], ["search", "x"],
     ["search", "x", "--gallery", "g", "--k", "0"],
     ["search", "x", "--gallery", "g", "--knob", "rrf_k"]],
)  # fmt: skip
def test_a_search_that_cannot_be_asked_is_the_users_mistake(
    client: FakeClient, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(given) == USAGE
    assert client.searched == []
    assert "Traceback" not in capsys.readouterr().err


def test_a_benchmark_is_queued_followed_and_printed(
    client: FakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["bench", "--dataset", "demo", "--name", "n", "--limit", "5", "--knob", "top_k=7",
             "--rrf-k", "30"]  # fmt: skip
    assert run(given) == DONE
    ((dataset, split, options),) = client.submitted
    assert (dataset, split, options["name"], options["limit"]) == ("demo", "val", "n", 5)
    assert options["knobs"] == {"top_k": 7, "rrf_k": 30}
    assert client.followed == ["demo_val~r"]
    shown = capsys.readouterr()
    assert "50.00" in shown.out
    assert "run folder: /runs/r" in shown.out
    assert "run demo_val~r" in shown.err


def test_without_waiting_it_is_only_queued(
    client: FakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "--dataset", "demo", "--no-wait", "--json"]) == DONE
    assert client.followed == []
    assert json.loads(capsys.readouterr().out)["state"] == "queued"


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_run_that_ends_otherwise_fails_the_command(
    client: FakeClient, state: RunState, capsys: pytest.CaptureFixture[str]
) -> None:
    client.state = state
    assert run(["bench", "--dataset", "demo"]) == FAILED
    assert f"run demo_val~r {state} in phase queries: no agent" in capsys.readouterr().err


def test_embedded_uses_a_stack_of_its_own_and_stops_it(
    client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    life: list[str] = []

    @contextmanager
    def embedded() -> Iterator[str]:
        life.append("started")
        try:
            yield "http://127.0.0.1:1"
        finally:
            life.append("stopped")

    monkeypatch.setattr(benchmarks, "_embedded", embedded)
    assert run(["bench", "--dataset", "demo", "--embedded"]) == DONE
    assert client.urls == ["http://127.0.0.1:1"]  # type: ignore[attr-defined]
    client.state = "failed"
    assert run(["bench", "--dataset", "demo", "--embedded"]) == FAILED
    assert life == ["started", "stopped"] * 2  # also after a failure


@pytest.mark.parametrize("also", [["--gateway", "http://x"], ["--no-wait"]])
def test_embedded_has_its_own_gateway_and_waits(
    client: FakeClient, also: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "--dataset", "demo", "--embedded", *also]) == USAGE
    assert "--embedded starts a gateway of its own" in capsys.readouterr().err
    assert client.submitted == []
