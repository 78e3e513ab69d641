"""The client against the application itself: what a method asks is what the gateway understands."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from broker.run_store import run_folder
from gateway.app import create_app
from gateway.benchmarks import BrokerBenchmarks
from gateway.client import Client, GatewayError
from gateway.records import BenchmarkView, SearchRequest, SearchWeights
from gateway.redis_client import gateway_redis
from shared.galleries import Gallery
from shared.metadata import write_metadata
from shared.settings import Settings
from tests.miniatures.composed import write_circo
from tests.unit.broker.finished_runs import finish_run
from tests.unit.gateway.fakes import FakeBenchmarks, FakeBoard, FakeSearches
from tests.unit.shared.index_scenes import make_gallery

FINISHED = BenchmarkView(id="a_val~r", dataset="a", split="val", name="", state="finished")


@contextmanager
def through(app: FastAPI) -> Iterator[Client]:
    """A client whose requests an application in this process answers."""
    inner = TestClient(app, raise_server_exceptions=False)

    def pass_on(request: httpx.Request) -> httpx.Response:
        answer = inner.request(
            request.method, str(request.url), headers=request.headers, content=request.read()
        )
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    with Client("http://testserver", transport=httpx.MockTransport(pass_on)) as client:
        yield client


@pytest.fixture
def searches() -> FakeSearches:
    return FakeSearches()


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    gallery = make_gallery(tmp_path, 5, missing=4)
    write_metadata(gallery, {"img0": {"maker": "Acme", "price": 3}, "img1": {"price": 7.5}})
    return gallery


@pytest.fixture
def client(tmp_path: Path, searches: FakeSearches, gallery: Gallery) -> Iterator[Client]:
    settings = Settings(home=tmp_path)
    benchmarks = FakeBenchmarks()
    benchmarks.runs[FINISHED.id] = FINISHED
    app = create_app(
        settings, gateway_redis(settings), benchmark_service=benchmarks, agent_board=FakeBoard(),
        search_service=searches,
    )  # fmt: skip
    with through(app) as client:
        yield client


def test_galleries_are_listed_browsed_and_looked_at(client: Client, gallery: Gallery) -> None:
    (listed,) = client.galleries()
    assert (listed.key, listed.images, listed.state) == (gallery.key, 5, "not indexed")
    assert client.gallery(gallery.key) == listed
    images = list(client.gallery_images(gallery.key))
    assert [one.image_id for one in images] == list(gallery.image_ids)
    assert [bool(one.failure) for one in images] == [one == "img4" for one in gallery.image_ids]
    whole = client.image(gallery.key, "img3")
    assert whole == gallery.image_file(3).path.read_bytes()
    with Image.open(io.BytesIO(client.image(gallery.key, "img3", width=16))) as small:
        assert small.format == "JPEG"


def test_the_fields_of_a_gallery_are_what_a_filter_can_ask(
    client: Client, gallery: Gallery
) -> None:
    maker, price = client.gallery_fields(gallery.key)
    assert (maker.name, maker.images, maker.values, maker.low) == ("maker", 1, ["Acme"], None)
    assert (price.name, price.images, price.values) == ("price", 2, [])
    assert (price.low, price.high) == (3, 7.5)
    with pytest.raises(GatewayError, match="no-such-gallery"):
        client.gallery_fields("no-such-gallery")


def test_damaged_metadata_is_told(client: Client, gallery: Gallery) -> None:
    (gallery.folder / "metadata.jsonl").write_text('{"maker": \n')
    with pytest.raises(GatewayError) as refused:
        client.gallery_fields(gallery.key)
    assert refused.value.problem.status == 409


def test_an_upload_is_the_reference_of_a_search(client: Client, searches: FakeSearches) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (7, 5), "red").save(stream, "PNG")
    kept = client.upload(stream.getvalue())
    assert (kept.width, kept.height, kept.media_type) == (7, 5, "image/png")
    request = SearchRequest(
        gallery="x", reference_upload=kept.id, modification_text="blue",
        weights=SearchWeights(v1=2.0), crop=(0, 0, 0.5, 1),
    )  # fmt: skip
    found = client.search(request.model_copy(update={"gallery": client.galleries()[0].key}))
    assert found.hits[0].image_id == "7"
    asked = searches.asked[-1]
    assert asked.reference_upload == kept.id
    assert asked.crop == (0, 0, 0.5, 1)
    # what was not set stays out, so that a default is no wish
    assert asked.weights.model_dump(exclude_unset=True) == {"v1": 2.0}


def test_a_search_streams_the_coarse_answer_first(client: Client, gallery: Gallery) -> None:
    request = SearchRequest(gallery=gallery.key, modification_text="blue")
    views = list(client.search_stream(request))
    assert [view.complete for view in views] == [False, True]
    assert views[0].stage == "coarse"


def test_agents_profiles_and_knobs(client: Client) -> None:
    coordinators = client.coordinators()
    assert coordinators is not None
    assert coordinators.waiting == 2
    assert {one.name for one in client.profiles()} >= {"demo", "paper"}
    assert "rrf_k" in client.knobs()["properties"]
    left = client.retry_all_dead_letters("question")
    assert left.dead_letters == []


def test_a_run_resumes_only_where_it_stopped(client: Client) -> None:
    with pytest.raises(GatewayError, match="nothing to resume"):
        client.resume(FINISHED.id)
    assert [run.id for run in client.runs()] == [FINISHED.id]


# --- what is asked --------------------------------------------------------------------------------

Handler = Callable[[httpx.Request], httpx.Response]


def recorded(answers: dict[str, Any]) -> tuple[Client, list[httpx.Request]]:
    """A client of a gateway that answers by path, and what it was asked."""
    asked: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        request.read()
        answer = answers[request.url.path]
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    return Client("http://gateway", transport=httpx.MockTransport(handler)), asked


def test_galleries_are_made_of_folders_files_and_archives(tmp_path: Path) -> None:
    made = {"key": "", "name": "mine", "state": "queued"}
    client, asked = recorded({"/v1/galleries": made, "/v1/galleries/my%20own": made})
    client.create_gallery("mine", "pictures/2024", idempotency_key="once")
    assert json.loads(asked[0].content) == {"name": "mine", "folder": "pictures/2024"}
    assert asked[0].headers["Idempotency-Key"] == "once"

    picture, archive = tmp_path / "a.png", tmp_path / "all.ZIP"
    Image.new("RGB", (2, 2)).save(picture)
    with zipfile.ZipFile(archive, "w") as file:
        file.write(picture, "a.png")
    client.upload_gallery("mine", [picture])
    client.upload_gallery("mine", [archive])
    assert b'name="images"; filename="a.png"' in asked[1].content
    assert b'name="archive"; filename="all.ZIP"' in asked[2].content
    assert archive.read_bytes() in asked[2].content


def test_ids_in_paths_are_quoted() -> None:
    client, asked = recorded({"/v1/galleries/my own": httpx.Response(204)})
    client.delete_gallery("my own")
    assert asked[0].method == "DELETE"
    assert asked[0].url.raw_path == b"/v1/galleries/my%20own"


def test_pages_are_fetched_until_the_last(tmp_path: Path) -> None:
    pages = iter(
        [
            {"benchmarks": [FINISHED.model_dump(mode="json")], "total": 2, "next_page_token": "2"},
            {"benchmarks": [FINISHED.model_dump(mode="json")], "total": 2, "next_page_token": ""},
        ]
    )
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.params["page_token"])
        assert request.url.params["state"] == "finished"
        return httpx.Response(200, json=next(pages))

    client = Client("http://gateway", transport=httpx.MockTransport(handler))
    assert len(client.benchmarks(state="finished")) == 2
    assert asked == ["", "2"]


def test_the_key_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XR_API_KEY", "secret")
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("Authorization", ""))
        return httpx.Response(200, json={"agents": []})

    transport = httpx.MockTransport(handler)
    Client("http://gateway", transport=transport).agents()
    Client("http://gateway", api_key="other", transport=transport).agents()
    assert seen == ["Bearer secret", "Bearer other"]


# --- over runs on the disk ------------------------------------------------------------------------


class RunsOnDisk(BrokerBenchmarks):
    """The real service; that its runs are finished, it does not ask Redis."""

    def __init__(self, settings: Settings, run_ids: list[str]) -> None:
        super().__init__(settings, None)  # type: ignore[arg-type]
        self._run_ids = run_ids

    async def view(self, benchmark_id: str) -> BenchmarkView | None:
        found = [view for view in await self.views() if view.id == benchmark_id]
        return found[0] if found else None

    async def views(self) -> list[BenchmarkView]:
        return [
            BenchmarkView(
                id=one, dataset="circo", split="val", name="", state="finished",
                run_folder=str(run_folder(self._settings.runs_folder, one)),
            )
            for one in self._run_ids
        ]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, list[str]]]:
    home = tmp_path_factory.mktemp("client")
    write_circo(home / "data")
    settings = Settings(home=home / "home", data_root=home / "data")
    ids = [finish_run(settings, "circo", "val", {"top_k": 8, "num_questions": n}) for n in (1, 3)]
    app = create_app(
        settings, gateway_redis(settings), benchmark_service=RunsOnDisk(settings, ids),
        agent_board=FakeBoard(), search_service=FakeSearches(),
    )  # fmt: skip
    with through(app) as client:
        yield client, ids


def test_every_query_comes_with_its_ranks_hardest_first(runs: tuple[Client, list[str]]) -> None:
    client, (_, run) = runs
    queries = list(client.queries(run, stage="verified", sort="hardest"))
    ranks = [query.ranks["verified"] or 999 for query in queries]
    assert len(ranks) == 6
    assert ranks == sorted(ranks, reverse=True)
    one = client.query(run, queries[0].query_id, k=3)
    assert (one.query_id, len(one.hits), len(one.propositions)) == (queries[0].query_id, 3, 3)
    with pytest.raises(GatewayError, match="no answer to a query 'x'"):
        client.query(run, "x")


def test_two_runs_are_compared(runs: tuple[Client, list[str]]) -> None:
    client, (first, second) = runs
    found = client.compare(first, second, k=5)
    assert (found.first, found.second, found.k) == (first, second, 5)
    assert found.manifest["knobs.num_questions"] == (1, 3)
    assert not found.identical
    assert client.compare(first, first).identical


def test_a_runs_manifest_and_metrics_are_there(runs: tuple[Client, list[str]]) -> None:
    client, ids = runs
    assert [run.id for run in client.runs()] == ids
    details = client.run(ids[0])
    assert details.manifest["knobs"]["num_questions"] == 1
    assert "verified" in details.results["methods"]


def test_its_files_can_be_fetched(runs: tuple[Client, list[str]], tmp_path: Path) -> None:
    client, (run, _) = runs
    lines = list(client.predictions(run))
    assert [line["query_id"] for line in lines] == [str(n) for n in range(6)]
    assert "XR: verified" in client.metrics_table(run)
    path = tmp_path / "report.html"
    client.download(run, "report", path)
    assert path.read_text().startswith("<!doctype html>")
    with pytest.raises(GatewayError):
        client.download(run, "submissions/none.json", tmp_path / "none")
    assert not (tmp_path / "none").exists()
