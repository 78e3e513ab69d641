"""API keys, scopes, other keys' runs, limits, and headers that are made up."""

from __future__ import annotations

import ast
import datetime
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.access import keys_are_required
from gateway.api_keys import FILE, ApiKeys
from gateway.app import create_app
from gateway.rate_limits import Buckets
from gateway.redis_client import gateway_redis
from shared.errors import ConfigurationError
from shared.settings import Settings
from tests.unit.gateway.fakes import FakeBenchmarks, FakeBoard, FakeSearches

RUN = {"dataset": "demo", "split": "val"}


class Guarded:
    """An application that asks for keys."""

    def __init__(self, http: httpx.AsyncClient, home: Path) -> None:
        self.http, self.keys = http, ApiKeys(home)

    def key(self, *scopes: str, lifetime_s: float | None = None) -> dict[str, str]:
        lifetime = None if lifetime_s is None else datetime.timedelta(seconds=lifetime_s)
        _, token = self.keys.create("test", scopes, lifetime)
        return {"Authorization": f"Bearer {token}"}


def application(home: Path, **changes: Any) -> httpx.ASGITransport:
    settings = Settings(home=home, **changes)
    app = create_app(
        settings,
        gateway_redis(settings),
        benchmark_service=FakeBenchmarks(),
        agent_board=FakeBoard(),
        search_service=FakeSearches(),
    )
    return httpx.ASGITransport(app=app, raise_app_exceptions=False)


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    transport = application(tmp_path, api_keys="required")
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        yield Guarded(http, tmp_path)


async def test_without_a_key_nothing_of_the_api_answers(guarded: Guarded) -> None:
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic eHI6eA=="}):
        answer = await guarded.http.get("/v1/benchmarks", headers=headers)
        assert answer.status_code == 401, headers
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["x-request-id"] == answer.json()["request_id"]
    assert (await guarded.http.get("/livez")).status_code == 200


async def test_no_operation_of_the_api_answers_without_a_key(guarded: Guarded) -> None:
    expired = guarded.key("admin", lifetime_s=-1)
    paths = (await guarded.http.get("/openapi.json")).json()["paths"]
    asked = 0
    for path, operations in paths.items():
        if path.startswith("/v1/"):
            for method in operations:
                url = path.replace("{", "").replace("}", "")
                for headers, slug in (({}, "key-missing"), (expired, "key-expired")):
                    answer = await guarded.http.request(method, url, headers=headers)
                    told = (answer.status_code, answer.json()["type"])
                    assert told == (401, f"urn:xr:problem:{slug}"), (method, path)
                asked += 1
    assert asked > 25


async def test_a_key_that_is_wrong_expired_or_revoked_opens_nothing(guarded: Guarded) -> None:
    good = guarded.key("read")
    assert (await guarded.http.get("/v1/benchmarks", headers=good)).status_code == 200
    forged = {"Authorization": good["Authorization"][:-1] + "_"}
    expired = guarded.key("read", lifetime_s=-1)
    for headers, slug in ((forged, "key-unknown"), (expired, "key-expired")):
        answer = await guarded.http.get("/v1/benchmarks", headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (401, f"urn:xr:problem:{slug}")
    guarded.keys.revoke(guarded.keys.all()[0].id)
    answer = await guarded.http.get("/v1/benchmarks", headers=good)
    assert answer.json()["type"] == "urn:xr:problem:key-revoked"


async def test_a_key_may_do_what_its_scopes_say(guarded: Guarded) -> None:
    read, bench, admin = guarded.key("read"), guarded.key("bench"), guarded.key("admin")
    assert (await guarded.http.post("/v1/benchmarks", json=RUN, headers=read)).status_code == 403
    body = {"gallery": "0" * 32, "modification_text": "x"}
    assert (await guarded.http.post("/v1/search", json=body, headers=read)).status_code == 403
    retry = "/v1/agents/question/dead-letters/retry"
    assert (await guarded.http.post(retry, headers=bench)).status_code == 403
    assert (await guarded.http.post(retry, headers=admin)).status_code == 202


async def test_runs_of_another_key_are_not_there(guarded: Guarded) -> None:
    mine, other = guarded.key("read", "bench"), guarded.key("read", "bench")
    admin = guarded.key("admin")
    run = (await guarded.http.post("/v1/benchmarks", json=RUN, headers=mine)).json()["id"]
    for method, path in (
        ("GET", f"/v1/benchmarks/{run}"),
        ("DELETE", f"/v1/benchmarks/{run}"),
        ("POST", f"/v1/benchmarks/{run}/resume"),
        ("GET", f"/v1/benchmarks/{run}/events"),
        ("GET", f"/v1/benchmarks/{run}/predictions"),
        ("GET", f"/v1/benchmarks/{run}/manifest"),
        ("GET", f"/v1/benchmarks/{run}/metrics-table"),
        ("GET", f"/v1/benchmarks/{run}/submissions"),
        ("GET", f"/v1/benchmarks/{run}/submissions/x.json"),
        ("GET", f"/v1/benchmarks/{run}/report"),
        ("GET", f"/v1/benchmarks/{run}/queries"),
        ("GET", f"/v1/benchmarks/{run}/queries/q1"),
        ("GET", f"/v1/runs/{run}"),
        ("GET", f"/v1/runs/{run}/comparison/{run}"),
    ):
        answer = await guarded.http.request(method, path, headers=other)
        assert answer.status_code == 404, (method, path)
    for path in ("/v1/benchmarks", "/v1/runs"):
        assert (await guarded.http.get(path, headers=other)).json()["total"] == 0
        assert (await guarded.http.get(path, headers=mine)).json()["total"] == 1
        assert (await guarded.http.get(path, headers=admin)).json()["total"] == 1


async def test_only_hashes_are_kept_and_only_for_their_owner(guarded: Guarded) -> None:
    token = guarded.key("read")["Authorization"].removeprefix("Bearer ")
    path = guarded.keys._path
    assert path.name == FILE
    assert token.rpartition("_")[2] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ConfigurationError, match="no scope"):
        guarded.keys.create("x", ["everything"])


@pytest.mark.parametrize(
    ("api_keys", "host", "required"),
    [
        ("auto", "127.0.0.1", False),
        ("auto", "0.0.0.0", True),
        ("off", "0.0.0.0", False),
        ("required", "::1", True),
    ],
)
def test_keys_are_asked_for_where_others_can_reach_the_port(
    api_keys: str, host: str, required: bool
) -> None:
    assert keys_are_required(Settings(api_keys=api_keys, gateway_host=host)) is required


def test_a_bucket_of_requests_fills_again() -> None:
    buckets = Buckets(2.0)
    assert [buckets.take_one("a", 0.0) for _ in range(2)] == [0.0, 0.0]
    assert buckets.take_one("a", 0.1) == pytest.approx(0.4)
    assert buckets.take_one("b", 0.1) == 0.0
    assert buckets.take_one("a", 0.6) == 0.0


async def test_more_requests_than_allowed_are_told_when_to_come_back(tmp_path: Path) -> None:
    transport = application(tmp_path, rate_limit_per_s=1.0)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        answers = [await http.get("/v1/benchmarks") for _ in range(3)]
    assert answers[0].status_code == 200
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) >= 1


async def test_pages_of_other_origins_may_use_the_api_only_when_they_are_named(
    tmp_path: Path,
) -> None:
    asked = {"Origin": "https://lab.example", "Access-Control-Request-Method": "POST"}
    for origins, allowed in (("", None), ("https://lab.example", "https://lab.example")):
        transport = application(tmp_path, cors_origins=origins, api_keys="required")
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            answer = await http.options("/v1/search", headers=asked)
        assert answer.headers.get("access-control-allow-origin") == allowed


async def test_a_request_id_cannot_carry_headers_of_its_own(guarded: Guarded) -> None:
    for made_up in ("a\r\nSet-Cookie: x=1", "a" * 65, "<script>"):
        answer = await guarded.http.get("/livez", headers={"X-Request-ID": made_up})
        assert "set-cookie" not in answer.headers
        assert answer.headers["x-request-id"] != made_up
    location = await guarded.http.post(
        "/v1/benchmarks", json={**RUN, "name": "a\r\nSet-Cookie: x=1"}, headers=guarded.key("bench")
    )
    assert location.status_code == 422


def test_the_server_fetches_no_address_that_somebody_names() -> None:
    """Nothing that serves requests can speak HTTP to others: there is nothing to be misused."""
    clients = {"httpx", "requests", "urllib.request", "aiohttp", "http.client", "urllib3"}
    root = Path(__file__).resolve().parents[3]
    own = {"gateway/connection.py"}  # of the client: users' programs and the command line
    for package in ("gateway", "broker", "shared"):
        for path in (root / package).rglob("*.py"):
            name = path.relative_to(root).as_posix()
            if name in own or name.startswith("gateway/commands/"):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                modules = (
                    [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else []
                )
                assert clients.isdisjoint(modules), f"{name} imports an HTTP client"
