"""Whole agent processes on a real Redis, with models that cost nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from redis.asyncio import Redis

from shared.bus.client import BusClient
from shared.contracts.messages import Failure
from shared.contracts.skills import (
    CandidatesVerified,
    CaptionImages,
    EmbedTexts,
    ImagesCaptioned,
    TextsEmbedded,
    VerifyImages,
)
from shared.redis_server import PrivateRedis
from tests.integration.agents.processes import (
    REPLY_TO,
    ROOT,
    TIMEOUT_S,
    Processes,
    answers,
    ended,
    request,
)
from tests.unit.agents.scenes import make_gallery, write_pictures


async def test_one_process_serves_all_agents_and_leaves_at_sigterm(
    processes: Processes, redis: Redis, redis_url: str
) -> None:
    # Given a gallery, and requests that wait before any agent lives
    gallery = make_gallery(
        processes.home / "galleries", write_pictures(processes.home / "pictures", 3)
    )
    client = BusClient(redis, REPLY_TO)
    await client.send(
        [
            request("caption", CaptionImages(gallery.key, (0, 1, 2))),
            request("verify", VerifyImages(gallery.key, (2, 1), ("Is it red?",))),
            request("embed", EmbedTexts(("a dress",))),
            request("lost", CaptionImages("0" * 32, (0,))),
        ]
    )
    # When one process serves all three agents
    process = processes.start("imagination", "question", "similarity", redis_url=redis_url)
    received = await answers(client, 4)
    # Then each message has its answer
    assert isinstance(received["caption"], ImagesCaptioned)
    assert len(received["caption"].results) == 3
    assert isinstance(received["verify"], CandidatesVerified)
    assert isinstance(received["embed"], TextsEmbedded)
    assert isinstance(received["lost"], Failure)
    # And the heartbeats say who answers
    identities = {agent.agent: json.loads(agent.identity) for agent in await client.live_agents()}
    assert set(identities) == {"imagination", "question", "similarity"}
    assert identities["imagination"]["backend"] == "zero_cost"
    assert set(identities["imagination"]) > {"prompt.caption", "prompt.imagine_text"}
    assert not [name for name in identities["similarity"] if name.startswith("prompt.")]
    # And it leaves in order
    process.send_signal(signal.SIGTERM)
    assert await ended(process) == 0
    assert processes.events()[-1].startswith("stopped after 4 requests, 1")
    assert await client.live_agents() == []
    await client.aclose()


async def test_a_process_whose_engine_dies_exits_and_leaves_the_message_to_others(
    processes: Processes, redis: Redis, redis_url: str
) -> None:
    gallery = make_gallery(
        processes.home / "galleries", write_pictures(processes.home / "pictures", 1)
    )
    client = BusClient(redis, REPLY_TO)
    process = processes.start(
        "question",
        redis_url=redis_url,
        language="tests.integration.agents.failing_engines:troubled",
    )
    await processes.wait_for_event("serving question")
    await client.send([request("doom", VerifyImages(gallery.key, (0,), ("Is it doomed?",)))])
    assert await ended(process) == 1
    assert (await client.depth("question")).pending == 1
    # Another process takes the message over
    processes.start("question", redis_url=redis_url)
    assert isinstance((await answers(client, 1))["doom"], CandidatesVerified)
    await client.aclose()


async def test_a_model_that_fails_to_warm_up_serves_nobody(
    processes: Processes, redis: Redis, redis_url: str
) -> None:
    process = processes.start(
        "question",
        redis_url=redis_url,
        language="tests.integration.agents.failing_engines:fails_every_item",
    )
    assert await ended(process) == 2
    assert any("role proposer fails to warm up" in event for event in processes.events())
    assert await BusClient(redis, REPLY_TO).live_agents() == []


async def test_a_process_waits_for_redis_and_says_so(
    processes: Processes, short_folder: Path
) -> None:
    # Given no Redis where the process looks for it
    redis_url = f"unix://{short_folder}/redis.sock"
    process = processes.start("similarity", redis_url=redis_url)
    await processes.wait_for_event("is not reachable")
    assert process.poll() is None
    # When one starts there
    with PrivateRedis(short_folder, unix_socket=True, append_only=False) as server:
        assert server.url == redis_url
        await processes.wait_for_event("serving similarity")
        process.send_signal(signal.SIGINT)
        assert await ended(process) == 0


async def test_a_process_that_waits_for_redis_can_be_stopped(
    processes: Processes, short_folder: Path
) -> None:
    process = processes.start("similarity", redis_url=f"unix://{short_folder}/redis.sock")
    await processes.wait_for_event("is not reachable")
    process.send_signal(signal.SIGTERM)
    assert await ended(process) == 0


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "agents", "similarity"],
        cwd=ROOT,
        env=os.environ | {"XR_PROFILE": "no-such-profile", "XR_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == 2
    assert "no profile 'no-such-profile'" in ended.stderr
    assert "Traceback" not in ended.stderr
