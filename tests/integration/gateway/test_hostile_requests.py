"""Hostile HTTP: paths that climb, bodies that swell. A problem in words, never a defect."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from redis.asyncio import Redis

from gateway.app import BODY_LIMIT_BYTES, create_app
from gateway.errors import MEDIA_TYPE
from shared.contracts.limits import MAX_TEXT_CHARACTERS
from shared.settings import Settings

SECRET = "the content of a file outside"
CLIMBING = (
    "..",
    "../../secret",
    "../../../../../../etc/passwd",
    "/etc/passwd",
    "..\\..\\secret",
    "C:\\secret",
    "%2e%2e%2fsecret",
    "%2e%2e/%2e%2e/secret",
    "..%252f..%252fsecret",
    "....//....//secret",
    "．．/secret",
    "\u2025/secret",
    "secret\x00.json",
    "a~../../secret",
    "demo_val~..",
    "runs~run\n",
    "~",
    "~root",
    "$HOME",
    "*",
    "a" * 10_000,
    "é" * 3_000,
    f"a~{'b' * 5_000}",
    "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
)
ROUTES = (
    ("GET", "/v1/benchmarks/{}"),
    ("DELETE", "/v1/benchmarks/{}"),
    ("POST", "/v1/benchmarks/{}/resume"),
    ("GET", "/v1/benchmarks/{}/predictions"),
    ("GET", "/v1/benchmarks/{}/manifest"),
    ("GET", "/v1/benchmarks/{}/metrics-table"),
    ("GET", "/v1/benchmarks/{}/submissions"),
    ("GET", "/v1/benchmarks/{}/submissions/x.json"),
    ("GET", "/v1/benchmarks/demo_val~run-1/submissions/{}"),
    ("GET", "/v1/benchmarks/{}/events"),
    ("GET", "/v1/benchmarks/{}/report"),
    ("GET", "/v1/benchmarks/{}/queries"),
    ("GET", "/v1/benchmarks/demo_val~run-1/queries/{}"),
    ("GET", "/v1/runs/{}"),
    ("GET", "/v1/runs/demo_val~run-1/comparison/{}"),
    ("GET", "/v1/galleries/{}"),
    ("DELETE", "/v1/galleries/{}"),
    ("GET", "/v1/galleries/{}/images"),
    ("GET", "/v1/galleries/{}/images/a.png"),
    ("GET", "/v1/uploads/{}"),
    ("GET", "/v1/agents/{}/dead-letters"),
    ("POST", "/v1/agents/imagination/dead-letters/{}/retry"),
)
LISTS_AND_RECORDS = {"benchmarks", "submissions", "id", "galleries", "runs", "benchmark", "queries"}
REFUSED = {400, 404, 405, 409, 413, 414, 422}


@pytest.fixture
def workplace(tmp_path: Path, redis_url: str) -> Settings:
    """A finished run, a folder of images, and a secret file beside both."""
    (tmp_path / "secret").write_text(SECRET)
    run = tmp_path / "home" / "runs" / "demo_val" / "run-1"
    (run / "submissions").mkdir(parents=True)
    (run / "request.json").write_text(json.dumps({"dataset": "demo", "split": "val"}))
    (run / "status.json").write_text(json.dumps({"state": "finished"}))
    (run / "predictions.jsonl").write_text("{}\n")
    (run / "submissions" / "link.json").symlink_to(tmp_path / "secret")
    images = tmp_path / "data" / "mine"
    images.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(images / "a.png")
    outside = tmp_path / "outside"
    outside.mkdir()
    Image.new("RGB", (4, 4)).save(outside / "a.png")
    (tmp_path / "data" / "link").symlink_to(outside)
    return Settings(redis_url=redis_url, home=tmp_path / "home", data_root=tmp_path / "data")


@pytest.fixture
async def http(workplace: Settings, redis: Redis) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(workplace, redis)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://gateway") as client,
    ):
        yield client


def check_refused(response: httpx.Response, what: str) -> dict[str, Any]:
    assert response.status_code in REFUSED, f"{what}: {response.status_code} {response.text[:200]}"
    assert response.headers["content-type"] == MEDIA_TYPE, what
    assert SECRET not in response.text
    problem: dict[str, Any] = response.json()
    assert problem["detail"], what
    return problem


@pytest.mark.parametrize(("method", "route"), ROUTES)
async def test_no_name_in_a_path_leads_out_of_its_folder(
    http: httpx.AsyncClient, method: str, route: str
) -> None:
    for name in CLIMBING:
        for quoted in {urllib.parse.quote(name, safe=""), urllib.parse.quote(name, safe="/%.~")}:
            response = await http.request(method, route.format(quoted))
            if response.status_code < 300:  # a shorter path that is a route of its own
                assert SECRET not in response.text
                assert LISTS_AND_RECORDS & response.json().keys(), name
            elif response.status_code not in (307, 308):
                check_refused(response, f"{method} {route} with {name[:40]!r}")


async def test_no_name_of_a_file_of_the_page_leads_out_of_it(http: httpx.AsyncClient) -> None:
    for name in CLIMBING:
        for quoted in {urllib.parse.quote(name, safe=""), urllib.parse.quote(name, safe="/%.~")}:
            response = await http.get(f"/web/{quoted}")
            if response.status_code == 200:  # a shorter path that is the page
                assert SECRET not in response.text
                assert response.headers["content-type"].startswith("text/html")
            elif response.status_code not in (307, 308):
                check_refused(response, f"/web/ with {name[:40]!r}")


async def test_a_link_among_the_results_is_not_followed_outside(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/benchmarks/demo_val~run-1/predictions")).status_code == 200
    check_refused(await http.get("/v1/benchmarks/demo_val~run-1/submissions/link.json"), "a link")


@pytest.mark.parametrize("name", [*CLIMBING, "../data/../outside", "link", "mine/../../outside"])
async def test_no_data_set_outside_the_data_root_is_opened(
    http: httpx.AsyncClient, name: str
) -> None:
    body = {"dataset": f"folder:{name}", "split": "all"}
    problem = check_refused(await http.post("/v1/benchmarks", json=body), name[:40])
    if name in ("..", "link", "/etc/passwd", "mine/../../outside"):
        assert "outside the data root" in problem["detail"]


@pytest.mark.parametrize("name", CLIMBING)
async def test_no_field_of_a_request_is_a_path(http: httpx.AsyncClient, name: str) -> None:
    for field in ("dataset", "split", "name", "restore"):
        body = {"dataset": "demo", "split": "val", "skip_stages": 1, field: name}
        check_refused(await http.post("/v1/benchmarks", json=body), f"{field} {name[:40]!r}")
    for field in ("gallery", "database", "reference_id"):
        search = {"modification_text": "red", "gallery": "0" * 32, "timeout_s": 1, field: name}
        if field == "database":
            del search["gallery"]
        response = await http.post("/v1/search", json=search)
        assert response.status_code in REFUSED | {503, 504}, response.text[:200]
        assert response.headers["content-type"] == MEDIA_TYPE
        assert SECRET not in response.text


async def test_bodies_that_swell_are_problems(http: httpx.AsyncClient) -> None:
    ten_megabytes = {"modification_text": "a" * 10_000_000, "gallery": "0" * 32}
    for path in ("/v1/search", "/v1/benchmarks"):
        response = await http.post(path, json=ten_megabytes)
        assert response.status_code == 413
        assert f"{BODY_LIMIT_BYTES}" in check_refused(response, path)["detail"]
    long = {"modification_text": "a" * (MAX_TEXT_CHARACTERS + 1), "gallery": "0" * 32}
    response = await http.post("/v1/search", json=long)
    assert response.status_code == 422
    assert "modification_text" in check_refused(response, "long text")["detail"]
    many_knobs = {f"knob{n}": n for n in range(20_000)}
    body = {"dataset": "demo", "split": "val", "knobs": many_knobs}
    assert (
        len(check_refused(await http.post("/v1/benchmarks", json=body), "knobs")["detail"]) < 5_000
    )


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 400_000,
        b'{"knobs":' + b'{"a":' * 100_000,
        b'{"dataset": "demo", "split": "val", "knobs": {"top_k": ' + b"9" * 100_000 + b"}}",
        b'{"dataset": "demo", "split": "val", "limit": 1e400}',
        b'{"dataset": "demo", "split": "val", "knobs": {"text_weight": NaN}}',
        b'{"dataset": "\\ud800", "split": "val"}',
        b'{"dataset": "demo", "split": "val", "name": "\\u0000"}',
        b'{"dataset": "demo", "dataset": "folder:/etc", "split": "val"}',
        b"\xff\xfe{}",
        b"\x82\xa7dataset\xa4demo",
        b"null",
        b"",
    ],
)
async def test_json_of_every_hostile_kind_is_a_problem(
    http: httpx.AsyncClient, body: bytes
) -> None:
    for path in ("/v1/benchmarks", "/v1/search"):
        headers = {"content-type": "application/json"}
        check_refused(await http.post(path, content=body, headers=headers), repr(body[:60]))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.dictionaries(
        st.sampled_from(["dataset", "split", "name", "knobs", "limit", "restore", "skip_stages"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
            ),
            max_leaves=5,
        ),
    )
)
async def test_any_json_is_taken_or_refused(http: httpx.AsyncClient, body: Any) -> None:
    content = json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    check_refused(
        await http.post("/v1/benchmarks", content=content, headers=headers), repr(content[:100])
    )
