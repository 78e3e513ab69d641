"""Building an image database: nothing waits for a whole step, nothing is built twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from broker.agents_client import AgentsClient
from broker.image_index import (
    ROWS_PER_MESSAGE,
    build_image_database,
    identity_with_given_captions,
    writer_for,
)
from shared.contracts.messages import Failure, RequestMessage
from shared.contracts.skills import CaptionImages, EmbedTexts, Result
from shared.errors import TransientError
from shared.galleries import Gallery, write_gallery
from shared.image_database import ImageDatabase
from shared.image_database_writer import ImageDatabaseWriter
from shared.settings import Settings
from tests.unit.broker.fake_agents import FakeAgents
from tests.unit.broker.fake_bus import FakeBus, Handler, Plan, deliver

IMAGES, CHUNK = 40, 20


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    images = []
    for n in range(IMAGES):
        path = tmp_path / f"{n}.png"
        Image.new("RGB", (4, 4), (n, 0, 0)).save(path)
        images.append((str(n), path))
    (tmp_path / "3.png").write_bytes(b"no image")
    return write_gallery(tmp_path / "galleries", images)


async def build(
    gallery: Gallery, tmp_path: Path, handler: Handler, plan: Plan = deliver
) -> tuple[ImageDatabase, FakeBus, list[tuple[int, int, int]]]:
    bus = FakeBus(handler, plan)
    told: list[tuple[int, int, int]] = []
    writer = ImageDatabaseWriter(
        tmp_path / "image_db", gallery, {"model": "c"}, {"model": "clip"}, chunk_rows=CHUNK
    )
    settings = Settings(ask_timeout_s=0.02, ask_attempts=2)
    async with AgentsClient(bus, "run", 1, settings) as agents:
        database = await build_image_database(
            gallery, agents.ask, writer, lambda *counts: told.append(counts)
        )
    return database, bus, told


async def test_a_database_holds_every_caption_and_embedding_and_names_what_failed(
    gallery: Gallery, tmp_path: Path
) -> None:
    agents = FakeAgents(broken_rows=frozenset({7}))
    database, bus, told = await build(gallery, tmp_path, agents)
    assert database.captions[5] == "caption of image 5"
    assert [failure.row for failure in database.failures] == [3, 7, 7]
    norms = np.linalg.norm(database.image_embeddings, axis=1)
    assert np.flatnonzero(norms == 0).tolist() == [3, 7]
    assert told[-1] == (IMAGES, IMAGES, 2)
    asked = [request.body for request in bus.requests]
    rows = [row for body in asked if isinstance(body, CaptionImages) for row in body.rows]
    assert sorted(rows) == [row for row in range(IMAGES) if row != 3]
    assert max(len(b.rows) for b in asked if isinstance(b, CaptionImages)) <= ROWS_PER_MESSAGE


async def test_a_finished_chunk_is_embedded_while_another_is_still_being_captioned(
    gallery: Gallery, tmp_path: Path
) -> None:
    embedded_early: list[bool] = []

    def lose_the_last_chunk_once(request: RequestMessage, reply):  # type: ignore[no-untyped-def]
        body = request.body
        if isinstance(body, CaptionImages) and body.rows[0] >= CHUNK and request.attempt == 1:
            return []
        if isinstance(body, EmbedTexts):
            embedded_early.append(body.texts[0] == "caption of image 0")
        return [reply]

    await build(gallery, tmp_path, FakeAgents(), lose_the_last_chunk_once)
    assert embedded_early[0]


async def test_an_interrupted_build_goes_on_with_what_is_missing(
    gallery: Gallery, tmp_path: Path
) -> None:
    def no_second_chunk(request: RequestMessage, reply):  # type: ignore[no-untyped-def]
        rows = getattr(request.body, "rows", (0,))
        return [reply] if rows[0] < CHUNK else []

    with pytest.raises(TransientError, match="no answer"):
        await build(gallery, tmp_path, FakeAgents(), no_second_chunk)
    database, bus, _ = await build(gallery, tmp_path, FakeAgents())
    rows = {row for r in bus.requests for row in getattr(r.body, "rows", ())}
    assert rows == set(range(CHUNK, IMAGES))
    assert len(database.failures) == 1

    _, untouched, _ = await build(gallery, tmp_path, FakeAgents())
    assert untouched.requests == []


async def test_a_refused_message_fails_its_images_and_no_others(
    gallery: Gallery, tmp_path: Path
) -> None:
    agents = FakeAgents()

    def refuse(request: RequestMessage) -> Result | Failure:
        body = request.body
        if isinstance(body, CaptionImages) and body.rows[0] == 0:
            return Failure("out of memory")
        return agents(request)

    database, _, _ = await build(gallery, tmp_path, refuse)
    failed = {f.row for f in database.failures if f.reason == "out of memory"}
    assert failed == {row for row in range(ROWS_PER_MESSAGE + 1) if row != 3}
    assert database.captions[ROWS_PER_MESSAGE + 1] is not None


async def build_with_captions(
    gallery: Gallery, tmp_path: Path, captions: dict[str, str]
) -> tuple[ImageDatabase, list[int]]:
    """The database, and the rows that the captioner was asked for."""
    bus = FakeBus(FakeAgents(), deliver)
    identities = {"imagination": {"model": "c"}, "similarity": {"model": "clip"}}
    writer = writer_for(tmp_path / "image_db", gallery, captions, identities, retry_failed=False)
    async with AgentsClient(bus, "run", 1, Settings(ask_timeout_s=1.0)) as agents:
        database = await build_image_database(
            gallery, agents.ask, writer, lambda *_: None, captions
        )
    bodies = [request.body for request in bus.requests]
    asked = [row for body in bodies if isinstance(body, CaptionImages) for row in body.rows]
    return database, sorted(asked)


async def test_given_captions_are_kept_and_only_the_others_are_asked_for(
    gallery: Gallery, tmp_path: Path
) -> None:
    database, asked = await build_with_captions(gallery, tmp_path, {"5": "my own", "20": "mine"})
    assert (database.captions[5], database.captions[20]) == ("my own", "mine")
    assert database.captions[6] == "caption of image 6"
    assert asked == [row for row in range(IMAGES) if row not in (3, 5, 20)]


async def test_the_key_holds_the_given_captions_and_the_captioner_only_if_it_is_asked(
    gallery: Gallery, tmp_path: Path
) -> None:
    every = {str(row): f"mine {row}" for row in range(IMAGES) if row != 3}
    captioner = {"model": "c"}
    known = [
        identity_with_given_captions(captioner, gallery, captions)
        for captions in ({}, {"5": "my own"}, {"5": "my other"}, every)
    ]
    assert known[0] == captioner
    assert [identity.get("model") for identity in known] == ["c", "c", "c", None]
    assert len({identity.get("given_captions") for identity in known}) == 4
    database, asked = await build_with_captions(gallery, tmp_path, every)
    assert asked == []
    assert database.captions[39] == "mine 39"
