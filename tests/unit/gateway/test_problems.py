"""The HTTP API over fakes: errors are problem details, whoever raises them."""

from __future__ import annotations

import errno

import httpx
import pytest

from gateway.app import BODY_LIMIT_BYTES
from gateway.records import BenchmarkView
from tests.unit.gateway.fakes import Api

MEMBERS = {"type", "title", "status", "detail", "instance", "request_id"}
DEMO = {"dataset": "demo", "split": "val"}


def problem(response: httpx.Response, status: int, slug: str) -> dict[str, object]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, object] = response.json()
    assert set(body) >= MEMBERS
    assert body["status"] == status
    assert body["type"] == f"urn:xr:problem:{slug}"
    assert body["request_id"] == response.headers["x-request-id"]
    return body


async def test_an_unknown_data_set_is_refused_with_the_known_ones(api: Api) -> None:
    response = await api.http.post("/v1/benchmarks", json={"dataset": "x", "split": "val"})
    body = problem(response, 422, "unknown-dataset")
    assert body["known"] == ["demo"]
    assert body["instance"] == "/v1/benchmarks"


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"split": "val"}, "body/dataset"),
        ({**DEMO, "limit": 0}, "body/limit"),
        ({**DEMO, "colour": "red"}, "body/colour"),
        ({**DEMO, "name": "../../etc"}, "body/name"),
        ({**DEMO, "knobs": [1]}, "body/knobs"),
    ],
)
async def test_a_malformed_request_says_where_it_is_wrong(
    api: Api, body: dict[str, object], where: str
) -> None:
    answer = problem(await api.http.post("/v1/benchmarks", json=body), 422, "invalid-request")
    errors = answer["errors"]
    assert isinstance(errors, list)
    assert errors[0]["where"] == where


async def test_a_body_that_is_no_json_is_a_problem(api: Api) -> None:
    response = await api.http.post(
        "/v1/benchmarks", content=b"{", headers={"content-type": "application/json"}
    )
    problem(response, 422, "invalid-request")


async def test_unknown_ids_paths_and_methods_are_problems(api: Api) -> None:
    problem(await api.http.get("/v1/benchmarks/none"), 404, "unknown-benchmark")
    problem(await api.http.delete("/v1/benchmarks/none"), 404, "unknown-benchmark")
    problem(await api.http.get("/v1/benchmarks/none/manifest"), 404, "unknown-benchmark")
    problem(await api.http.get("/v2"), 404, "not-found")
    problem(await api.http.put("/v1/benchmarks"), 405, "method-not-allowed")
    body = problem(await api.http.get("/v1/agents/spy/dead-letters"), 404, "unknown-agent")
    assert body["known"] == ["imagination", "similarity", "question"]


async def test_a_result_that_is_not_there_yet_is_said_so(api: Api) -> None:
    submitted = await api.http.post("/v1/benchmarks", json=DEMO)
    response = await api.http.get(f"{submitted.headers['location']}/predictions")
    assert "has no predictions yet" in str(problem(response, 404, "result-not-there")["detail"])


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "streamed"])
async def test_a_body_over_the_limit_is_refused(api: Api, declared: bool) -> None:
    body = b" " * (BODY_LIMIT_BYTES + 1)

    async def chunks():  # type: ignore[no-untyped-def]  # no content-length is sent then
        yield body[:500_000]
        yield body[500_000:]

    content = body if declared else chunks()
    problem(await api.http.post("/v1/benchmarks", content=content), 413, "body-too-large")
    assert api.benchmarks.runs == {}


async def test_without_redis_the_gateway_says_so_and_recovers(api: Api) -> None:
    # Given a Redis that is away
    api.benchmarks.redis_away = api.board.redis_away = True
    # Then what needs it is refused, and what doesn't goes on
    body = problem(await api.http.post("/v1/benchmarks", json=DEMO), 503, "redis-unreachable")
    assert "Redis cannot be reached" in str(body["detail"])
    assert (await api.http.get("/livez")).status_code == 200
    readiness = await api.http.get("/readyz")
    assert readiness.status_code == 503
    assert (readiness.json()["ready"], readiness.json()["redis"]) == (False, False)
    assert "Redis cannot be reached" in readiness.json()["reasons"][0]
    metrics = (await api.http.get("/metrics")).text
    assert "xr_redis_up 0.0" in metrics
    assert "xr_queue_depth" not in metrics
    # When it is back, so is the gateway
    api.benchmarks.redis_away = api.board.redis_away = False
    assert (await api.http.post("/v1/benchmarks", json=DEMO)).status_code == 202


async def test_a_full_disk_is_told_as_such(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device", "/volume/runs")

    monkeypatch.setattr(api.benchmarks, "submit", full)
    body = problem(await api.http.post("/v1/benchmarks", json=DEMO), 507, "disk-full")
    assert "/volume/runs" in str(body["detail"])
    assert "make room" in str(body["detail"])


async def test_a_defect_is_a_problem_without_its_insides(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> list[BenchmarkView]:
        raise RuntimeError("the password is secret")

    monkeypatch.setattr(api.benchmarks, "views", broken)
    response = await api.http.get("/v1/benchmarks")
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert "secret" not in response.text


async def test_a_request_keeps_the_id_its_client_gave_it(api: Api) -> None:
    kept = await api.http.get("/livez", headers={"X-Request-ID": "trace-7"})
    assert kept.headers["x-request-id"] == "trace-7"
    replaced = await api.http.get("/livez", headers={"X-Request-ID": "a b\t" * 40})
    assert replaced.headers["x-request-id"] not in ("", "a b\t" * 40)
