"""`xr submission check`, `xr runs export|mean`, and the routes of the files they are about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.cli import run
from gateway.client import Client
from gateway.commands import submission
from gateway.records import BenchmarkView
from shared.datasets import Benchmark, Protocol, Query
from tests.unit.gateway.fakes import Api
from tests.unit.gateway.test_api import submit


async def test_the_files_for_the_servers_are_listed_and_downloaded(api: Api) -> None:
    benchmark_id = await submit(api)
    path = f"/v1/benchmarks/{benchmark_id}/submissions"
    assert (await api.http.get(path)).json() == {"benchmark_id": benchmark_id, "submissions": []}
    folder = api.settings.runs_folder / "cirr_test1" / "clip-run"
    (folder / "submissions").mkdir(parents=True)
    (folder / "submissions" / "coarse_recall.json").write_text('{"version":"rc2"}')
    (folder.parent / "secret.json").write_text("{}")
    api.benchmarks.runs[benchmark_id] = api.benchmarks.runs[benchmark_id].model_copy(
        update={"state": "finished", "run_folder": str(folder)}
    )
    assert (await api.http.get(path)).json()["submissions"] == ["coarse_recall.json"]
    downloaded = await api.http.get(f"{path}/coarse_recall.json")
    assert downloaded.json() == {"version": "rc2"}
    assert downloaded.headers["content-type"] == "application/json"
    for name in ("other.json", "..%2F..%2Fsecret.json"):
        refused = await api.http.get(f"{path}/{name}")
        assert refused.status_code == 404
    assert (await api.http.get("/v1/benchmarks/none/submissions")).status_code == 404


def test_a_file_is_accepted_or_refused_with_all_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps({"0": list(range(50))}))
    bad.write_text(json.dumps({"0": [1, 1], "x": []}))
    assert run(["submission", "check", str(good)]) == 0
    told = capsys.readouterr()
    assert "accepted" in told.out
    assert "--split" in told.err
    assert run(["submission", "check", str(bad)]) == 1
    told = capsys.readouterr()
    for words in ("1 stands twice", "2 ids instead of 50", "'x' is no query id"):
        assert words in told.err
    assert run(["submission", "check", str(good), "--dataset", "cirr"]) == 1
    assert run(["submission", "check", str(tmp_path / "absent.json")]) == 2
    assert run(["submission", "check", str(good), "--split", "val", "--data-root", "/nil"]) == 2


class FakeClient:
    """Finished runs of one small data set."""

    def __init__(self, **metrics: tuple[float, list[float]]) -> None:
        self.metrics = metrics

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def benchmark(self, run_id: str) -> BenchmarkView:
        value, interval = self.metrics.get(run_id, (0.5, []))
        return BenchmarkView(
            id=run_id, dataset="own", split="val", name="", state="finished",
            metrics={"coarse": {"recall@10": value}}, intervals={"coarse": {"recall@10": interval}},
        )  # fmt: skip

    def predictions(self, _run_id: str) -> list[dict[str, Any]]:
        return [
            {"query_id": "q 1", "status": "ok", "ranking": ["b", "a"]},
            {"query_id": "q2", "status": "failed", "reason": "no text"},
        ]


def test_a_run_is_exported_with_the_ground_truth_of_what_it_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = tuple(
        Query(query_id=name, reference_id=None, modification_text="t", target_ids=("a",))
        for name in ("q 1", "q2", "q3")
    )
    split = Benchmark(
        name="own", split="val", images=(), searchable=0, queries=queries,
        protocol=Protocol(exclude_reference=False),
    )  # fmt: skip
    monkeypatch.setattr(submission, "connect", lambda _url: FakeClient())
    monkeypatch.setattr(submission, "load_dataset", lambda *_arguments: split)
    assert run(["runs", "export", "r1", "--format", "trec", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "run.trec").read_text() == "q%201 Q0 b 1 2 r1\nq%201 Q0 a 2 1 r1\n"
    assert (tmp_path / "qrels.trec").read_text() == "q%201 0 a 1\nq2 0 a 1\n"


def test_the_mean_of_runs_counts_them_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = FakeClient(dress=(0.2, [0.1, 0.3]), shirt=(0.4, [0.3, 0.5]))
    monkeypatch.setattr(submission, "connect", lambda _url: client)
    assert run(["runs", "mean", "dress", "shirt"]) == 0
    assert "30.00 ±7.07" in capsys.readouterr().out
    assert run(["runs", "mean", "dress", "other", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"]["coarse"]["recall@10"] == pytest.approx(0.35)
    assert found["intervals"]["coarse"]["recall@10"] == []


def test_the_client_reads_submissions_and_predictions_as_the_api_gives_them(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/submissions"):
            body = {"benchmark_id": "r", "submissions": ["coarse_map.json"]}
            return httpx.Response(200, json=body)
        if request.url.path.endswith("/predictions"):
            return httpx.Response(200, text='{"query_id":"1"}\n{"query_id":"2\u2028"}\n')
        return httpx.Response(200, json={"0": [1]})

    with Client("http://gateway", transport=httpx.MockTransport(answer)) as client:
        assert client.submissions("r") == ["coarse_map.json"]
        assert [line["query_id"] for line in client.predictions("r")] == ["1", "2\u2028"]
        client.download("r", "submissions/coarse_map.json", tmp_path / "mine.json")
    assert json.loads((tmp_path / "mine.json").read_bytes()) == {"0": [1]}
