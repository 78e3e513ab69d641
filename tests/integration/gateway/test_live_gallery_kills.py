"""Deaths in the middle of a gallery's update: SIGKILL to real coordinators and gateways, and agents
whose consumers vanish with their batches."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from shared.image_database_check import check_image_database
from shared.settings import Settings
from tests.integration.broker.conftest import agents, settings  # noqa: F401 - fixtures
from tests.integration.gateway.test_live_galleries import FIRST, Live, live, models  # noqa: F401
from tests.integration.gateway.test_whole_api import api, picture  # noqa: F401 - fixtures

pytestmark = pytest.mark.slow

KILLS = 12
NEW = {f"new{n:02d}.png": picture(size=(10 + n, 10)) for n in range(24)}
WITHIN_S = 60.0


class Killable:
    """Services as processes of their own."""

    def __init__(self, given: Settings) -> None:
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("XR_")},
            "XR_REDIS_URL": given.redis_url,
            "XR_HOME": str(given.home),
            "XR_DATA_ROOT": str(given.data_root),
            "XR_LOG_LEVEL": "warning",
        }
        self._started: list[Process] = []

    async def start(self, *arguments: str, **pipes: Any) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *arguments, env=self._environment, **pipes
        )
        self._started.append(process)
        return process

    async def gateway(self) -> tuple[Process, str]:
        process = await self.start("gateway.cli", "gateway", "--port", "0", stderr=PIPE)
        assert process.stderr is not None
        told = re.search(rb"http://\S+", await process.stderr.readline())
        assert told is not None
        url = told[0].decode()
        async with httpx.AsyncClient() as client, asyncio.timeout(WITHIN_S):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    await client.get(f"{url}/livez")
                    return process, url
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        for process in self._started:
            if process.returncode is None:
                process.kill()
            await process.communicate()


@pytest.fixture
async def killable(settings: Settings) -> AsyncIterator[Killable]:  # noqa: F811
    services = Killable(settings)
    yield services
    await services.stop()


async def test_coordinators_killed_anywhere_show_nothing_half_and_the_update_ends(
    live: Live,  # noqa: F811
    killable: Killable,
) -> None:
    # Given an update that a dozen coordinators are killed at
    removed, after = "00.png", (FIRST | NEW.keys()) - {"00.png"}
    await live.put(**{name.replace(".", "_"): content for name, content in NEW.items()})
    update = await live.remove(removed)
    coordinators = await killable.start(
        "tests.integration.broker.coordinating", stdin=PIPE, stdout=PIPE, stderr=DEVNULL
    )
    assert coordinators.stdin is not None
    assert coordinators.stdout is not None
    draw = random.Random(8)
    kills, seen, state = 0, [], ""
    async with asyncio.timeout(3 * WITHIN_S):
        while state != "finished":
            coordinators.stdin.write(f"{update['benchmark_id']}\n".encode())
            process_id = int(await coordinators.stdout.readline())
            if kills < KILLS:
                await asyncio.sleep(draw.uniform(0.0, 0.35))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process_id, signal.SIGKILL)
                    kills += 1
            assert await coordinators.stdout.readline() == b"ended\n"
            # Then a search finds the one version or the other
            seen.append(await live.found())
            assert seen[-1] in (FIRST, after)
            view = await live.api.get(f"/v1/benchmarks/{update['benchmark_id']}")
            state = view["state"]
    # And in the end all of it, once, and sound
    assert seen[-1] == after
    assert kills >= 2
    print(f"\n{kills} kills; searches found the new version {seen.count(after)} times")
    current, first = await live.versions()
    assert (current["number"], first["number"]) == (3, 1)
    database, given = current["database"], live.api.settings
    findings = list(check_image_database(given.image_db_folder, given.galleries_folder, database))
    assert [finding for finding in findings if "12.png" not in finding.where] == []
    # Images that had been answered before a kill are seldom asked again, and none is missing.
    assert set(live.models.embedded) == set(live.models.captioned)
    assert len(set(live.models.embedded)) == len(NEW)


async def test_gateways_killed_anywhere_lose_nothing_and_sending_again_finishes(
    live: Live,  # noqa: F811
    killable: Killable,
) -> None:
    draw = random.Random(9)
    files = [("images", item) for item in NEW.items()]
    made = 0
    for _ in range(KILLS):
        process, url = await killable.gateway()
        async with httpx.AsyncClient(base_url=url, timeout=WITHIN_S) as client:
            sending = asyncio.create_task(
                client.post(
                    "/v1/galleries/mine/images", files=files, headers={"Idempotency-Key": "once"}
                )
            )
            await asyncio.sleep(draw.uniform(0.0, 0.6))
            process.kill()
            await process.communicate()
            with contextlib.suppress(httpx.TransportError):
                made += (await sending).status_code == 202
        # Then the change is written down as a whole or not at all, and nothing of it is seen
        view = await live.api.get("/v1/galleries/mine")
        assert (view["version"], view["pending_changes"] in (0, 1)) == (1, True)
        assert await live.found() == FIRST
    # When it is sent again, to a gateway that lives
    update = await live.put(
        key="once", **{name.replace(".", "_"): content for name, content in NEW.items()}
    )
    await live.done(update)
    assert update["version"] == 2
    assert await live.found() == FIRST | NEW.keys()
    assert len(live.models.captioned) == len(NEW)
    kept = live.api.settings.home / "named_galleries" / "mine" / "images"
    assert len(list(kept.glob("[!.]*"))) == len(NEW)
    print(f"\n{made} of {KILLS} requests were answered before the kill")


async def test_agents_that_vanish_in_the_middle_cost_nothing_but_time(
    live: Live,  # noqa: F811
    agents: Any,  # noqa: F811
) -> None:
    # Given that the agents vanish with their batches: a stopped consumer answers no more
    agents.batch_s = 0.2
    update = await live.put(**{name.replace(".", "_"): content for name, content in NEW.items()})
    working = asyncio.create_task(live.api.work(update["benchmark_id"]))
    await asyncio.sleep(0.5)
    for task in agents._tasks:
        task.cancel()
    await asyncio.gather(*agents._tasks, return_exceptions=True)
    agents._tasks.clear()
    agents._consumers.clear()
    agents.batch_s = 0.0
    for name in ("imagination", "similarity", "question"):
        agents.start(name)
    await asyncio.wait_for(working, 3 * WITHIN_S)
    assert await live.found() == FIRST | NEW.keys()
