"""Galleries that change while they are searched, over the real API, bus, runs and ranking."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis

from agents.backends.zero_cost import embedding_model
from agents.similarity.skills import SimilarityAgent
from agents.stores import Databases, Galleries
from broker.run_store import run_folder
from shared import gallery_updates
from shared.contracts.messages import Failure, RequestMessage
from shared.contracts.skills import (
    Caption,
    CaptionImages,
    EmbedImages,
    EmbedTexts,
    ImagesCaptioned,
    ImagesEmbedded,
    RankGallery,
    Result,
    Vector,
)
from shared.galleries import open_gallery
from shared.image_database import open_image_database
from shared.settings import Settings
from tests.integration.broker.conftest import (  # noqa: F401 - fixtures
    IMAGES,
    LiveAgents,
    agents,
    settings,
)
from tests.integration.gateway.test_whole_api import Api, api, picture  # noqa: F401 - fixtures
from tests.unit.broker.fake_agents import FakeAgents

WITHIN_S = 20.0
COARSE = {"stages": ["coarse"], "imagine_text": False, "imagine_image": False}


class RankingAgents(FakeAgents):
    """The real similarity agent over a model that costs nothing; captions name the image's content.

    Attributes:
        captioned, embedded: content hashes of the images that the models were asked about.
        poisoned: content whose embedding is full of NaN.
    """

    def __init__(self, given: Settings) -> None:
        super().__init__()
        self._galleries = Galleries(given.galleries_folder)
        databases = Databases(given.image_db_folder)
        self._similarity = SimilarityAgent(embedding_model(), self._galleries, databases)
        self._folder = given.galleries_folder
        self.captioned: list[str] = []
        self.embedded: list[str] = []
        self.poisoned = ""

    def __call__(self, request: RequestMessage) -> Result | Failure:
        body = request.body
        if isinstance(body, CaptionImages):
            asked = self._contents(body.gallery, body.rows)
            self.captioned += asked
            return ImagesCaptioned(tuple(Caption(f"picture {content}") for content in asked))
        if isinstance(body, EmbedImages | EmbedTexts | RankGallery):
            (answer,) = self._similarity.answer([request])
            if isinstance(body, EmbedImages) and isinstance(answer, ImagesEmbedded):
                asked = self._contents(body.gallery, body.rows)
                self.embedded += asked
                nan = Vector(np.full(64, np.nan, "<f4").tobytes())
                pairs = zip(asked, answer.results, strict=True)
                return ImagesEmbedded(
                    tuple(nan if content == self.poisoned else one for content, one in pairs)
                )
            return answer
        return super().__call__(request)

    def _contents(self, gallery: str, rows: tuple[int, ...]) -> list[str]:
        listing = open_gallery(self._folder, gallery).listing
        return [listing[row].sha256 for row in rows]


@pytest.fixture
def models(agents: LiveAgents, settings: Settings) -> RankingAgents:  # noqa: F811
    agents._answer = RankingAgents(settings)
    return agents._answer


class Live:
    """A named gallery of the folder "pictures", and what one does with it."""

    def __init__(self, api: Api, models: RankingAgents) -> None:  # noqa: F811
        self.api, self.models = api, models

    async def put(
        self, metadata: Any = None, status: int = 202, key: str = "", **images: bytes
    ) -> Any:
        """Images by id; "_" in an argument's name stands for "."."""
        files: Any = [
            ("images", (name.replace("_", "."), content)) for name, content in images.items()
        ]
        data = {} if metadata is None else {"metadata": json.dumps(metadata)}
        return await self._sent(
            status, "images", data=data, files=files or {"none": (None, "")},
            headers={"Idempotency-Key": key} if key else {},
        )  # fmt: skip

    async def remove(self, *image_ids: str, status: int = 202) -> Any:
        return await self._sent(status, "removals", json={"image_ids": image_ids})

    async def refresh(self) -> Any:
        return await self._sent(202, "refresh")

    async def _sent(self, status: int, what: str, **options: Any) -> Any:
        answer = await self.api.http.post(f"/v1/galleries/mine/{what}", **options)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def done(self, update: Any) -> None:
        await self.api.work(update["benchmark_id"])
        view = await self.api.get(f"/v1/benchmarks/{update['benchmark_id']}")
        assert view["state"] == "finished", view["error"]

    async def found(self, **more: Any) -> set[str]:
        """The ids of all images that a search finds."""
        answer = await self.api.http.post(
            "/v1/search",
            json={
                "gallery": "mine", "modification_text": "x", "k": 100, "knobs": COARSE, **more,
            },
        )  # fmt: skip
        assert answer.status_code == 200, answer.text
        return {hit["image_id"] for hit in answer.json()["hits"]}

    async def versions(self) -> list[Any]:
        return list((await self.api.get("/v1/galleries/mine/versions"))["versions"])


@pytest.fixture
async def live(api: Api, models: RankingAgents) -> Live:  # noqa: F811
    answer = await api.http.post("/v1/galleries", json={"name": "mine", "folder": "pictures"})
    assert answer.status_code == 202, answer.text
    await api.work(answer.json()["benchmark_id"])
    models.captioned.clear()
    models.embedded.clear()
    return Live(api, models)


FIRST = {f"{n:02d}.png" for n in range(IMAGES)} - {"12.png"}  # which is no image


async def test_added_replaced_and_removed_images_are_searched_all_at_once(live: Live) -> None:
    assert await live.found() == FIRST
    # When images are added and replaced, and others removed
    update = await live.put(new_png=picture("purple"), **{"03_png": picture("white")})
    assert (update["version"], update["state"], update["put"]) == (2, "queued", 2)
    gone = await live.remove("00.png", "01.png")
    assert gone["version"] == 3
    assert gone["benchmark_id"] == update["benchmark_id"], "one run makes a version of both"
    # Then nothing is seen of it until its version is ready
    assert await live.found() == FIRST
    view = await live.api.get("/v1/galleries/mine")
    assert (view["version"], view["pending_changes"], view["state"]) == (1, 2, "ready")
    await live.done(update)
    # And then all of it, in the same gateway and the same agents
    assert await live.found() == (FIRST | {"new.png"}) - {"00.png", "01.png"}
    view = await live.api.get("/v1/galleries/mine")
    assert (view["version"], view["pending_changes"], view["images"]) == (3, 0, IMAGES - 1)
    image = await live.api.http.get("/v1/galleries/mine/images/03.png")
    assert image.content == picture("white")
    assert (await live.api.http.get("/v1/galleries/mine/images/00.png")).status_code == 404
    # And only the two new images cost anything
    assert len(live.models.captioned) == len(live.models.embedded) == 2
    current, first = await live.versions()
    assert (current["number"], current["since"], current["put"], current["removed"]) == (3, 2, 2, 2)
    assert (current["current"], first["current"]) == (True, False)
    listed = (await live.api.get("/v1/galleries"))["galleries"]
    assert [view["name"] for view in listed] == ["mine"], "versions are no galleries of their own"


async def test_a_search_under_way_ends_in_the_version_it_began_in(
    live: Live,
    agents: LiveAgents,  # noqa: F811
) -> None:
    agents.batch_s = 0.3
    searching = asyncio.create_task(live.found())
    await asyncio.sleep(0.1)
    await live.done(await live.remove("00.png"))
    assert await searching in (FIRST, FIRST - {"00.png"})
    agents.batch_s = 0.0
    assert await live.found() == FIRST - {"00.png"}


async def test_metadata_comes_with_images_and_can_be_set_alone(live: Live) -> None:
    update = await live.put({"new.png": {"price": 5}, "04.png": {"price": 9}}, new_png=picture())
    await live.done(update)
    assert await live.found(filter={"price": {"lt": 6}}) == {"new.png"}
    update = await live.put({"new.png": {"price": 50}})
    await live.done(update)
    assert await live.found(filter={"price": {"gt": 6}}) == {"new.png", "04.png"}
    assert len(live.models.embedded) == 1
    refused = await live.put({"nobody.png": {"price": 1}}, status=404)
    assert refused["unknown"] == ["nobody.png"]
    await live.put({"04.png": {"price": [1]}}, status=422)


async def test_a_benchmark_pins_a_version_and_gives_the_same_bytes_ever_after(live: Live) -> None:
    async def predictions(dataset: str) -> bytes:
        run = await live.api.benchmark(dataset=dataset, knobs={**COARSE, "seed": 1})
        view = await live.api.get(f"/v1/benchmarks/{run}")
        assert view["state"] == "finished", view["error"]
        folder = run_folder(live.api.settings.runs_folder, run)
        request = json.loads((folder / "request.json").read_bytes())
        assert request["dataset"] == (dataset if "@" in dataset else f"{dataset}@{pinned}")
        return (folder / "predictions.jsonl").read_bytes()

    pinned = 1
    before = await predictions("gallery:mine")
    assert b"03.png" in before
    await live.done(await live.put(new_png=picture("purple")))
    assert await predictions("gallery:mine@1") == before
    pinned = 2
    after = await predictions("gallery:mine")
    assert after != before
    assert b"new.png" in after
    answer = await live.api.http.post(
        "/v1/benchmarks", json={"dataset": "gallery:mine@7", "split": "all"}
    )
    assert answer.status_code == 422
    assert "no version 7; the last ones: 2, 1" in answer.json()["detail"]


async def test_of_twenty_writers_at_once_every_update_is_in_at_the_end(live: Live) -> None:
    puts = [
        live.put(**{f"new{n}_png": picture(size=(10 + n, 10))}) for n in range(12)
    ]  # fmt: skip
    removals = [live.remove(f"{n:02d}.png") for n in range(8)]
    updates = await asyncio.gather(*puts, *removals)
    assert sorted(update["version"] for update in updates) == list(range(2, 22))
    runs = {update["benchmark_id"] for update in updates}
    await asyncio.gather(*(live.api.work(run) for run in runs))
    expected = {f"new{n}.png" for n in range(12)} | (FIRST - {f"{n:02d}.png" for n in range(8)})
    assert await live.found() == expected
    assert len(live.models.captioned) == 12, "nothing is asked twice"


async def test_a_refresh_brings_in_what_has_become_of_the_folder(live: Live) -> None:
    pictures = live.api.settings.data_root / "pictures"
    await live.done(await live.put(uploaded_png=picture("white")))
    assert (await live.refresh())["state"] == "unchanged"
    (pictures / "new.png").write_bytes(picture("purple"))
    (pictures / "05.png").write_bytes(picture("orange"))
    (pictures / "12.png").write_bytes(picture("pink"))  # which was no image
    (pictures / "00.png").unlink()
    (pictures / "metadata.jsonl").write_text('{"image_id": "new.png", "fields": {"year": 7}}\n')
    (pictures / "queries.jsonl").unlink()  # they name the removed image
    live.models.embedded.clear()
    update = await live.refresh()
    assert (update["put"], update["removed"], update["fields"]) == (3, 1, 1)
    await live.done(update)
    changed = {"uploaded.png", "new.png", "12.png"}
    assert await live.found() == (FIRST | changed) - {"00.png"}
    assert await live.found(filter={"year": 7}) == {"new.png"}
    assert len(live.models.embedded) == 3
    assert (await live.refresh())["state"] == "unchanged"


async def test_an_embedding_of_nan_is_refused_and_named_and_the_rest_goes_on(live: Live) -> None:
    bad, good = picture("purple"), picture("white")
    live.models.poisoned = hashlib.sha256(bad).hexdigest()
    await live.done(await live.put(bad_png=bad, good_png=good))
    found = await live.found()
    assert "good.png" in found
    (current, _) = await live.versions()
    database = open_image_database(live.api.settings.image_db_folder, current["database"])
    named = {failure.image_id: failure for failure in database.failures}
    assert set(named) == {"12.png", "bad.png"}
    assert named["bad.png"].step == "image_embedding"
    assert "64 of its 64 numbers are not" in named["bad.png"].reason
    assert "NaN" in named["bad.png"].reason
    assert np.isfinite(database.image_embeddings).all()


@pytest.mark.parametrize(
    ("name", "content", "status", "words"),
    [
        ("../evil.png", picture(), 422, "out of the gallery"),
        ("a.png", b"no image", 422, "decoded"),
        ("x" * 300, picture(), 422, "too long"),
    ],
)
async def test_what_is_no_image_changes_nothing(
    live: Live, name: str, content: bytes, status: int, words: str
) -> None:
    answer = await live.api.http.post(
        "/v1/galleries/mine/images",
        files=[("images", ("fine.png", picture("white"))), ("images", (name, content))],
    )
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
    view = await live.api.get("/v1/galleries/mine")
    assert (view["version"], view["pending_changes"]) == (1, 0)


async def test_requests_that_cannot_be_met_say_why(live: Live) -> None:
    refused = await live.remove("nobody.png", status=404)
    assert refused["type"].endswith("unknown-image")
    everything = [image["image_id"] for image in (await live.api.get(
        "/v1/galleries/mine/images", page_size=100))["images"]]  # fmt: skip
    refused = await live.remove(*everything, status=409)
    assert refused["type"].endswith("gallery-would-be-empty")
    answer = await live.api.http.post("/v1/galleries/nobody/refresh")
    assert answer.status_code == 404
    first = await live.put(new_png=picture(), key="once")
    again = await live.put(new_png=picture(), key="once")
    assert first["version"] == again["version"] == 2
    removed = await live.api.http.delete("/v1/galleries/mine/images/new.png")
    assert (removed.status_code, removed.json()["version"]) == (202, 3)


async def test_a_full_disk_is_told_and_the_former_version_stays_searched(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    # Given a gateway that cannot keep what is uploaded
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refused = await live.put(new_png=picture(), status=507)
    assert "No space left" in refused["detail"]
    assert (await live.api.get("/v1/galleries/mine"))["pending_changes"] == 0
    # And a coordinator whose disk is full in the middle of an update
    update = await live.put(new_png=picture())
    real = gallery_updates.write_listing

    def write_listing(*arguments: Any) -> Any:
        written = real(*arguments)
        monkeypatch.setattr(os, "fsync", full)
        return written

    monkeypatch.setattr(gallery_updates, "write_listing", write_listing)
    with pytest.raises(Exception, match=r"No space left|there is no room"):
        await live.api.work(update["benchmark_id"])
    monkeypatch.undo()
    # Then the former version is whole, and the update goes on when there is room
    assert await live.found() == FIRST
    resumed = await live.api.http.post(f"/v1/benchmarks/{update['benchmark_id']}/resume")
    assert resumed.status_code in (202, 409), resumed.text
    await live.done(update)
    assert await live.found() == FIRST | {"new.png"}


async def test_a_deleted_gallery_takes_its_versions_and_uploads_along(
    live: Live, redis: Redis
) -> None:
    await live.done(await live.put(new_png=picture()))
    waiting = await live.remove("00.png")
    home = live.api.settings.home
    assert list((home / "named_galleries" / "mine" / "images").iterdir())
    assert (await live.api.http.delete("/v1/galleries/mine")).status_code == 204
    assert not list((home / "named_galleries").iterdir())
    assert not list(home.glob("galleries/*/gallery.jsonl"))
    assert not list(home.glob("image_db/*/manifest.json"))
    view = await live.api.get(f"/v1/benchmarks/{waiting['benchmark_id']}")
    assert view["state"] == "cancelled"
    # And another one of the name begins anew
    answer = await live.api.http.post("/v1/galleries", json={"name": "mine", "folder": "pictures"})
    await live.api.work(answer.json()["benchmark_id"])
    assert await live.found() == FIRST
    assert [version["number"] for version in await live.versions()] == [1]


async def test_given_captions_stay_with_their_images_and_are_searched_by_the_name(
    api: Api,  # noqa: F811
    models: RankingAgents,
) -> None:
    pictures = api.settings.data_root / "pictures"
    lines = [{"image_id": f"{n:02d}.png", "caption": f"my picture {n}"} for n in range(5)]
    (pictures / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    answer = await api.http.post("/v1/galleries", json={"name": "mine", "folder": "pictures"})
    await api.work(answer.json()["benchmark_id"])
    models.captioned.clear()
    models.embedded.clear()
    live = Live(api, models)
    assert await live.found() == FIRST
    await live.put(**{"new_png": picture("purple"), "03_png": picture("white")})
    await live.done(await live.remove("00.png"))
    assert await live.found() == (FIRST | {"new.png"}) - {"00.png"}
    assert len(models.captioned) == len(models.embedded) == 2, "the replaced image has none given"
    (current, _) = await live.versions()
    database = open_image_database(api.settings.image_db_folder, current["database"])
    gallery = open_gallery(api.settings.galleries_folder, current["gallery"])
    assert database.captions[gallery.row_of("02.png")] == "my picture 2"
    assert str(database.captions[gallery.row_of("03.png")]).startswith("picture ")
