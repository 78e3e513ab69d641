"""Builders of image databases that are killed, and two that work on the same one."""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.contracts.messages import Failure, RequestMessage
from shared.contracts.skills import Caption, CaptionImages, ImagesCaptioned, Result
from shared.galleries import Gallery, write_gallery
from shared.image_database import open_image_database
from tests.integration.broker.conftest import LiveAgents
from tests.integration.broker.index_builder import environment
from tests.unit.broker.fake_agents import FakeAgents, text_vector
from tests.unit.shared.index_scenes import contents

IMAGES, KILLS = 100, 20
WITHIN_S = 120.0


class Builders:
    """Starts builder processes; whatever still runs at the end is killed."""

    def __init__(self, redis_url: str, home: Path, gallery: Gallery) -> None:
        self.home, self._redis_url, self._gallery = home, redis_url, gallery
        self._started: list[Process] = []

    async def start(self) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.integration.broker.index_builder", self._gallery.key,
            env=environment(self._redis_url, self.home), stdout=PIPE, stderr=PIPE,
        )  # fmt: skip
        self._started.append(process)
        return process

    async def build(self) -> Path:
        """Build to the end; the database's folder."""
        await finished(await self.start())
        (folder,) = (self.home / "image_db").iterdir()
        return folder

    async def stop(self) -> None:
        for process in self._started:
            if process.returncode is None:
                process.kill()
            await process.communicate()


@pytest.fixture
async def builders(redis_url: str, tmp_path: Path, agents: LiveAgents) -> AsyncIterator[Builders]:
    images = []
    for number in range(IMAGES):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (2, 2), (number, 0, 0)).save(path)
        images.append((f"img{number}", path))
    images[3][1].write_bytes(b"no image")
    gallery = write_gallery(tmp_path / "home" / "galleries", images)
    started = Builders(redis_url, tmp_path / "home", gallery)
    yield started
    await started.stop()


async def finished(process: Process) -> None:
    output, errors = await asyncio.wait_for(process.communicate(), WITHIN_S)
    assert process.returncode == 0, errors.decode()
    assert output.decode().splitlines()[-1] == "finished"


async def killed_after(process: Process, lines: int) -> bool:
    """Kill it when it has told its progress so often; False when it had finished before."""
    assert process.stdout is not None
    for _ in range(lines):
        line = await asyncio.wait_for(process.stdout.readline(), WITHIN_S)
        if line == b"finished\n":
            await process.communicate()
            return False
    process.kill()
    await process.communicate()
    return True


@pytest.mark.slow
async def test_killed_twenty_times_anywhere_the_build_ends_with_the_same_files(
    builders: Builders,
) -> None:
    folder = await builders.build()
    expected = contents(folder)
    assert len(expected) == 4
    draw = random.Random(20)
    kills = 0
    shutil.rmtree(folder)
    while kills < KILLS:
        kills += await killed_after(await builders.start(), draw.randint(1, 12))
        if (folder / "manifest.json").exists():  # built in spite of the kills: once more
            assert contents(folder).items() >= expected.items()
            shutil.rmtree(folder)
    assert contents(await builders.build()) == expected


class FickleAgents(FakeAgents):
    """Captions every image differently each time it is asked."""

    asked = 0

    def __call__(self, request: RequestMessage) -> Result | Failure:
        if isinstance(request.body, CaptionImages):
            self.asked += 1
            return ImagesCaptioned(
                tuple(Caption(f"image {row}, asked {self.asked}") for row in request.body.rows)
            )
        return super().__call__(request)


async def test_two_builders_at_once_end_with_one_database_that_fits_together(
    builders: Builders, agents: LiveAgents
) -> None:
    agents._answer = FickleAgents()
    one, two = await builders.start(), await builders.start()
    await asyncio.gather(finished(one), finished(two))
    (folder,) = (builders.home / "image_db").iterdir()
    assert len(contents(folder)) == 4, "no parts and no half-written files are left"
    database = open_image_database(folder.parent, folder.name)
    assert [(failure.row, failure.step) for failure in database.failures] == [(3, "image")]
    for row, caption in enumerate(database.captions):
        if row != 3:
            assert caption is not None
            assert caption.startswith(f"image {row}, ")
            expected = np.frombuffer(text_vector(caption), "<f4").astype(np.float16)
            assert (database.caption_embeddings[row] == expected).all()
