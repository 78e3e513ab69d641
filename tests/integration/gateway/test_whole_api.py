"""The HTTP API over the real bus, runs and galleries; only the models are stand-ins."""

from __future__ import annotations

import asyncio
import io
import json
import os
import time
import zipfile
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from redis.asyncio import Redis

from broker.benchmark_run import coordinate
from gateway.abandoned_uploads import ABANDONED_AFTER_S
from gateway.app import create_app
from shared.settings import Settings
from tests.integration.broker.conftest import (  # noqa: F401 - fixtures
    IMAGES,
    LiveAgents,
    agents,
    settings,
)


async def ignore(_: Any) -> None: ...


class Api:
    """The application, and a coordinator that works when it is told to."""

    def __init__(self, http: httpx.AsyncClient, given: Settings, redis: Redis) -> None:
        self.http, self.settings, self.redis = http, given, redis

    async def work(self, run_id: str) -> None:
        await coordinate(run_id, self.settings, self.redis, ignore)

    async def benchmark(self, **more: Any) -> str:
        body = {"dataset": "folder:pictures", "split": "all", "knobs": {"top_k": 8}, **more}
        answer = await self.http.post("/v1/benchmarks", json=body)
        assert answer.status_code == 202, answer.text
        await self.work(answer.json()["id"])
        return str(answer.json()["id"])

    async def get(self, path: str, **params: Any) -> Any:
        answer = await self.http.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
async def api(
    agents: LiveAgents,  # noqa: F811
    settings: Settings,  # noqa: F811
    redis: Redis,
) -> AsyncIterator[Api]:
    app = create_app(settings, redis)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        yield Api(http, settings, redis)
    await app.state.services.searches.aclose()


def picture(colour: str = "red", kind: str = "PNG", size: tuple[int, int] = (40, 20)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, kind)
    return stream.getvalue()


def events_of(text: str) -> list[tuple[str, Any]]:
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "event" in fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


async def test_a_run_is_looked_at_query_by_query(api: Api) -> None:
    # Given a finished run
    run = await api.benchmark()
    # Then its queries are listed with the ranks of their targets, page by page
    first = await api.get(f"/v1/benchmarks/{run}/queries", page_size=4)
    assert (first["total"], len(first["queries"])) == (9, 4)
    assert {"coarse", "verified"} <= set(first["stages"])
    rest = await api.get(
        f"/v1/benchmarks/{run}/queries", page_size=4, page_token=first["next_page_token"]
    )
    assert [query["query_id"] for query in rest["queries"]] == ["q4", "q5", "q6", "q7"]
    # And the hardest come first: those without a rank, then the worst ranks
    hardest = await api.get(f"/v1/benchmarks/{run}/queries", sort="hardest")
    ranks = [query["ranks"].get("verified") or 10**6 for query in hardest["queries"]]
    assert ranks == sorted(ranks, reverse=True)
    assert hardest["queries"][0]["status"] == "failed"
    # And each has its evidence, which says the same
    query = first["queries"][0]
    seen = await api.get(f"/v1/benchmarks/{run}/queries/{query['query_id']}")
    assert seen["stage"] == "verified"
    assert seen["targets"][0]["ranks"] == query["ranks"]
    assert [hit["rank"] for hit in seen["hits"]] == list(range(1, len(seen["hits"]) + 1))
    assert seen["hits"][0]["image_id"] == seen["stages"]["verified"][0]
    assert len(seen["propositions"]) == 3
    assert seen["imagination"]["text"]["edits"][0]["kind"] == "add"
    finals = [hit["final_score"] for hit in seen["hits"] if hit["final_score"] is not None]
    assert finals == sorted(finals, reverse=True)
    assert (await api.http.get(f"/v1/benchmarks/{run}/queries/nobody")).status_code == 404


async def test_two_runs_are_compared_and_described(api: Api) -> None:
    one, other = await api.benchmark(), await api.benchmark(knobs={"stages": ["coarse"]})
    details = await api.get(f"/v1/runs/{one}")
    assert details["manifest"]["knobs"]["top_k"] == 8
    assert details["results"]["counts"]["failed"] == 1
    compared = await api.get(f"/v1/runs/{one}/comparison/{other}", k=1)
    assert compared["manifest"]["knobs.stages"] == [["coarse", "verify"], ["coarse"]]
    assert set(compared["paired"]) >= {"recall@1"}
    listed = await api.get("/v1/runs", page_size=1)
    assert (listed["total"], [run["id"] for run in listed["runs"]]) == (2, [other])


async def test_progress_is_pushed_until_the_run_is_over(api: Api) -> None:
    answer = await api.http.post(
        "/v1/benchmarks", json={"dataset": "folder:pictures", "split": "all"}
    )
    run = answer.json()["id"]
    watching = asyncio.create_task(api.http.get(f"/v1/benchmarks/{run}/events"))
    await api.work(run)
    events = events_of((await watching).text)
    assert [name for name, _ in events][-1] == "done"
    assert events[-1][1]["state"] == "finished"
    assert events[0][1]["id"] == run


async def test_a_folder_becomes_a_gallery_that_is_searched_by_its_name(api: Api) -> None:
    # When a gallery is made of a server folder
    body = {"name": "mine", "folder": "pictures"}
    answer = await api.http.post("/v1/galleries", json=body)
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")
    assert answer.headers["location"] == "/v1/galleries/mine"
    assert (await api.http.post("/v1/galleries", json=body)).status_code == 409
    early = {"gallery": "mine", "modification_text": "x"}
    assert (await api.http.post("/v1/search", json=early)).status_code == 409
    # And indexed
    await api.work(answer.json()["benchmark_id"])
    view = await api.get("/v1/galleries/mine")
    assert (view["state"], view["images"], view["failed_images"]) == ("ready", IMAGES, 1)
    assert [one["name"] for one in (await api.get("/v1/galleries"))["galleries"]] == ["mine"]
    # Then its images are browsed
    page = await api.get("/v1/galleries/mine/images", page_size=3)
    assert [image["image_id"] for image in page["images"]] == ["00.png", "01.png", "02.png"]
    assert page["images"][0]["caption"] == "caption of image 0"
    small = await api.http.get("/v1/galleries/mine/images/00.png", params={"width": 100})
    assert small.headers["content-type"] == "image/jpeg"
    again = await api.http.get(
        "/v1/galleries/mine/images/00.png",
        params={"width": 100},
        headers={"If-None-Match": small.headers["etag"]},
    )
    assert again.status_code == 304
    whole = await api.http.get("/v1/galleries/mine/images/00.png")
    assert whole.headers["content-type"] == "image/png"
    assert (await api.http.get("/v1/galleries/mine/images/12.png")).status_code == 404
    # And searched by the name
    found = await api.http.post(
        "/v1/search",
        json={
            "gallery": "mine", "reference_image_id": "03.png", "modification_text": "x", "depth": 6,
        },
    )  # fmt: skip
    assert found.json()["gallery"] == view["key"]
    assert found.json()["imagination"]["reference_caption"] == "caption of image 3"
    assert set(found.json()["timings"]) >= {"imagine_text", "rank", "propose", "verify_image"}
    # Until it is deleted; the images stay where they are
    assert (await api.http.delete("/v1/galleries/mine")).status_code == 204
    assert (await api.get("/v1/galleries"))["galleries"] == []
    assert (api.settings.data_root / "pictures" / "00.png").exists()


async def test_images_and_archives_are_uploaded_as_galleries(api: Api) -> None:
    files = [("images", (f"{name}.png", picture(name))) for name in ("red", "green", "blue")]
    answer = await api.http.post("/v1/galleries", data={"name": "colours"}, files=files)
    assert answer.status_code == 202, answer.text
    await api.work(answer.json()["benchmark_id"])
    assert (await api.get("/v1/galleries/colours"))["images"] == 3
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("a/one.jpg", picture("red", "JPEG"))
        zipped.writestr("a/two.jpg", picture("blue", "JPEG"))
        zipped.writestr("__MACOSX/a/._one.jpg", b"litter")
    answer = await api.http.post(
        "/v1/galleries", data={"name": "zipped"}, files={"archive": ("a.zip", archive.getvalue())}
    )
    await api.work(answer.json()["benchmark_id"])
    page = await api.get("/v1/galleries/zipped/images")
    assert [image["image_id"] for image in page["images"]] == ["a/one.jpg", "a/two.jpg"]
    assert len(uploaded(api)) == 2
    assert (await api.http.delete("/v1/galleries/zipped")).status_code == 204
    assert [len(list(folder.iterdir())) for folder in uploaded(api)] == [3], "colours has its own"


def uploaded(api: Api) -> list[Path]:
    """The folders of uploaded galleries that are kept."""
    folder = api.settings.uploaded_galleries_folder
    return list(folder.iterdir()) if folder.exists() else []


async def test_of_two_uploads_under_one_name_one_is_kept_whole(api: Api) -> None:
    def upload(*colours: str) -> Awaitable[httpx.Response]:
        files = [("images", (f"{name}.png", picture(name))) for name in colours]
        return api.http.post("/v1/galleries", data={"name": "mine"}, files=files)

    one, two = await asyncio.gather(upload("red", "green"), upload("blue"))
    assert sorted([one.status_code, two.status_code]) == [202, 409]
    (folder,) = uploaded(api)
    kept = ["green.png", "red.png"] if one.status_code == 202 else ["blue.png"]
    assert sorted(path.name for path in folder.iterdir()) == kept


async def test_an_upload_that_is_sent_again_with_its_key_is_answered_as_before(api: Api) -> None:
    def upload(key: str, name: str = "mine", colour: str = "red") -> Awaitable[httpx.Response]:
        files = [("images", (f"{colour}.png", picture(colour)))]
        return api.http.post(
            "/v1/galleries", data={"name": name}, files=files, headers={"Idempotency-Key": key}
        )

    # Given an upload whose answer was lost
    first = await upload("a")
    assert first.status_code == 202, first.text
    # When it is sent again, before and after its run
    again = await upload("a")
    await api.work(first.json()["benchmark_id"])
    later = await upload("a")
    # Then there is one gallery, one run and one folder
    for answer in (again, later):
        assert answer.status_code == 202, answer.text
        assert answer.json()["benchmark_id"] == first.json()["benchmark_id"]
        assert answer.headers["location"] == first.headers["location"]
    assert len(uploaded(api)) == 1
    assert len((await api.get("/v1/runs"))["runs"]) == 1
    # And another key, or none, is another upload
    for key in ("b", ""):
        answer = await upload(key, colour="blue")
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:xr:problem:name-taken")
    assert [path.name for folder in uploaded(api) for path in folder.iterdir()] == ["red.png"]


async def test_an_upload_sent_twice_at_once_leaves_one_whole_gallery(api: Api) -> None:
    files = [("images", ("red.png", picture("red")))]
    answers = await asyncio.gather(
        *(
            api.http.post(
                "/v1/galleries",
                data={"name": "mine"},
                files=files,
                headers={"Idempotency-Key": "a"},
            )
            for _ in range(2)
        )
    )
    # One may be told that the other is under way; none takes the other's images away
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert 202 in [answer.status_code for answer in answers]
    (folder,) = uploaded(api)
    assert [path.name for path in folder.iterdir()] == ["red.png"]
    view = await api.get("/v1/galleries/mine")
    await api.work(view["benchmark_id"])
    assert (await api.get("/v1/galleries/mine"))["state"] == "ready"


async def test_a_reference_image_sent_again_is_answered_as_before(api: Api) -> None:
    headers = {"Idempotency-Key": "a"}
    first, again = [
        await api.http.post("/v1/uploads", content=picture("green"), headers=headers)
        for _ in range(2)
    ]
    assert (first.status_code, first.json()) == (again.status_code, again.json())
    assert first.status_code == 201


async def test_what_a_killed_gateway_had_received_is_removed_after_a_day(api: Api) -> None:
    # Given a gallery, and three folders without one: whole, half-written, and of today
    files = [("images", ("red.png", picture("red")))]
    await api.http.post("/v1/galleries", data={"name": "mine"}, files=files)
    (kept,) = uploaded(api)
    parent = api.settings.uploaded_galleries_folder
    whole, half, young = (parent / name for name in ("0" * 32, ".1.7-ab.tmp", "2" * 32))
    for folder in (whole, half, young):
        folder.mkdir()
        (folder / "a.png").write_bytes(picture())
    day_ago_s = time.time() - ABANDONED_AFTER_S - 60
    for folder in (kept, whole, half):
        os.utime(folder, (day_ago_s, day_ago_s))
    # When a gateway starts
    app = create_app(api.settings, api.redis)
    async with app.router.lifespan_context(app):
        async with asyncio.timeout(10):
            while whole.exists() or half.exists():  # noqa: ASYNC110 - files have no events
                await asyncio.sleep(0.02)
    # Then what is older than a day and nobody's is gone
    assert sorted(uploaded(api)) == sorted([kept, young])


async def test_runs_are_listed_by_their_state_and_data_set(api: Api) -> None:
    finished = await api.benchmark()
    body = {"dataset": "folder:pictures", "split": "all"}
    queued = (await api.http.post("/v1/benchmarks", json=body)).json()["id"]
    for path, name in (("/v1/runs", "runs"), ("/v1/benchmarks", "benchmarks")):
        for state, expected in (
            ("finished", [finished]),
            ("queued", [queued]),
            ("cancelled", []),
        ):
            found = await api.get(path, state=state)
            assert [run["id"] for run in found[name]] == expected, (path, state)
            assert found["total"] == len(expected)
        assert (await api.get(path, dataset="demo"))["total"] == 0
        assert (await api.http.get(path, params={"state": "lost"})).status_code == 422


async def test_a_stream_has_the_coarse_ranking_first(api: Api) -> None:
    await api.benchmark()
    (gallery,) = (await api.get("/v1/galleries"))["galleries"]
    body = {"gallery": gallery["key"], "reference_image_id": "03.png", "modification_text": "x"}
    answer = await api.http.post("/v1/search/stream", json=body)
    (first, coarse), (second, verified) = events_of(answer.text)
    assert (first, second) == ("coarse", "verified")
    assert not coarse["complete"]
    assert [hit["coarse_rank"] for hit in coarse["hits"]] == list(range(1, 11))
    assert all(hit["image_answers"] is None for hit in coarse["hits"])
    assert verified["complete"]
    assert verified["stage"] == "verified"
    wrong = await api.http.post("/v1/search/stream", json={**body, "gallery": "0" * 32})
    assert wrong.status_code == 404


async def test_uploads_crops_weights_and_feedback_shape_a_search(api: Api) -> None:
    await api.benchmark()
    (gallery,) = (await api.get("/v1/galleries"))["galleries"]
    upload = await api.http.post("/v1/uploads", content=picture("green"))
    assert (upload.status_code, upload.json()["media_type"]) == (201, "image/png")
    body = {"gallery": gallery["key"], "modification_text": "x", "knobs": {"top_k": 5}}

    async def search(**more: Any) -> Any:
        answer = await api.http.post("/v1/search", json={**body, **more})
        assert answer.status_code == 200, answer.text
        return answer.json()

    by_upload = await search(reference_upload=upload.json()["id"])
    assert by_upload["imagination"]["image"]["caption"] == "x of row 0", "its pixels were looked at"
    cropped = await search(reference_image_id="03.png", crop=[0, 0, 0.5, 0.5])
    assert "03.png" not in [hit["image_id"] for hit in cropped["hits"]]
    weighted = await search(
        reference_image_id="03.png",
        negative_text="fog",
        weights={"v1": 2, "reference": 0.5},
        target_feedback={"image_id": "05.png"},
        earlier={"texts": ["without hats"]},
    )
    assert {one["name"]: one["weight"] for one in weighted["lists"]} == {
        "v1.hybrid": 2.0, "v2.hybrid": 1.0, "aug.hybrid": 1.0,
        "reference": 0.5, "negative.hybrid": -1.0, "feedback": 1.0,
    }  # fmt: skip
    assert "caption of image 5" in weighted["imagination"]["text"]["captions"][0]
    galleries = (await api.get("/v1/galleries"))["galleries"]
    assert len(galleries) == 1, "reference images are no galleries to be searched"
    for wrong, status in (
        ({"reference_upload": "0" * 32}, 404),
        ({"crop": [0, 0, 1, 1]}, 422),
        ({"reference_image_id": "03.png", "crop": [0.5, 0, 1, 1]}, 422),
        ({"weights": {"reference": 1}}, 422),
        ({"weights": {"v1": 0, "v2": 0, "aug": 0}}, 422),
        ({"depth": 3}, 422),
        ({"filter": {"year": 2024}}, 404),  # nothing is known of its images
    ):
        answer = await api.http.post("/v1/search", json={**body, **wrong})
        assert answer.status_code == status, (wrong, answer.text)


async def test_the_system_says_how_it_is(api: Api) -> None:
    system = await api.get("/v1/system")
    assert {view["agent"] for view in system["agents"]} == {
        "imagination", "similarity", "question",
    }  # fmt: skip
    assert system["agents"][0]["details"][0]["model"] == "models/fake-clip"
    profiles = (await api.get("/v1/profiles"))["profiles"]
    assert [profile["name"] for profile in profiles if profile["current"]] == ["demo"]
    assert "top_k" in (await api.get("/v1/knobs"))["properties"]


@pytest.mark.parametrize(
    ("files", "status", "words"),
    [
        ([("images", ("../../evil.png", picture()))], 422, "out of the gallery"),
        ([("images", ("a.png", b"<svg/>"))], 422, "decoded"),
        ([("images", (".hidden.png", picture()))], 422, "dot"),
        ([("images", ("a.png", picture())), ("images", ("a.png", picture("blue")))], 422, "twice"),
        ([("archive", ("a.zip", b"no zip"))], 422, "zip"),
        ([], 422, "needs either"),
    ],
)
async def test_uploads_that_are_no_gallery_leave_nothing(
    api: Api, files: list[Any], status: int, words: str
) -> None:
    form = files or [("other", (None, "x"))]
    answer = await api.http.post("/v1/galleries", data={"name": "bad"}, files=form)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
    assert uploaded(api) == []
    assert not list(api.settings.home.rglob("evil*"))


async def test_bombs_are_refused_before_they_are_unpacked(api: Api, tmp_path: Path) -> None:
    # Given a small PNG of very many pixels, and a small archive of very many bytes
    bomb = picture("white", "PNG", (12_000, 12_000))
    answer = await api.http.post("/v1/uploads", content=bomb)
    assert answer.status_code == 422
    assert "pixels" in answer.json()["detail"]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("zeros.png", bytes(70_000_000))
    answer = await api.http.post(
        "/v1/galleries", data={"name": "bomb"}, files={"archive": ("b.zip", archive.getvalue())}
    )
    assert answer.status_code == 422
    assert uploaded(api) == []


@pytest.mark.parametrize(
    "folder", ["../../etc", "/etc", "http://example.org/x", "file:///etc", "a" * 300]
)
async def test_no_gallery_is_made_of_what_lies_elsewhere(api: Api, folder: str) -> None:
    answer = await api.http.post("/v1/galleries", json={"name": "bad", "folder": folder})
    assert answer.status_code == 422, answer.text
    assert (await api.http.get("/v1/galleries/bad")).status_code == 404
