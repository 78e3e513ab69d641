"""Whole agent processes on a real Redis, with models that cost nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from shared.bus.client import BusClient
from shared.contracts.messages import Failure, RequestMessage
from shared.contracts.skills import (
    CandidatesVerified,
    CaptionImages,
    EmbedTexts,
    ImagesCaptioned,
    Request,
    TextsEmbedded,
    VerifyImages,
)
from shared.redis_server import PrivateRedis
from tests.unit.agents.scenes import make_gallery, write_pictures

ROOT = Path(__file__).resolve().parents[3]
REPLY_TO = "xr:reply:agent-process-tests"
TIMEOUT_S = 90.0  # only a bound: on a busy machine importing numpy takes seconds
PROFILE = """
prompts = "compact"
[models.language]
backend = "{language}"
[models.clip]
backend = "zero_cost_clip"
[roles]
captioner = "language"
imaginer_text = "language"
imaginer_image = "language"
proposer = "language"
evaluator_image = "language"
evaluator_caption = "language"
clip = "clip"
"""


class Processes:
    """Starts agent processes; whatever still lives at the end is killed."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.started: list[subprocess.Popen[bytes]] = []

    def start(
        self, *agents: str, redis_url: str, language: str = "zero_cost"
    ) -> subprocess.Popen[bytes]:
        profile = self.home / "profile.toml"
        profile.write_text(PROFILE.format(language=language))
        environment = os.environ | {
            "XR_REDIS_URL": redis_url,
            "XR_HOME": str(self.home),
            "XR_PROFILE": str(profile),
            "XR_WORKER_NAME": "w1",
            "XR_LEASE_S": "2",
        }
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "agents", *agents], cwd=ROOT, env=environment, stderr=log
            )
        self.started.append(process)
        return process

    @property
    def log(self) -> Path:
        return self.home / "agent.log"

    def events(self) -> list[str]:
        """Every line of the log is one JSON object."""
        return [json.loads(line)["event"] for line in self.log.read_text().splitlines()]

    async def wait_for_event(self, text: str) -> None:
        end = time.monotonic() + TIMEOUT_S
        while not self.log.exists() or not any(text in event for event in self.events()):
            assert time.monotonic() < end, f"no {text!r} in {self.log.read_text()}"
            await asyncio.sleep(0.05)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    running = Processes(tmp_path)
    yield running
    for process in running.started:
        process.kill()
        process.wait()


async def ended(process: subprocess.Popen[bytes]) -> int:
    return await asyncio.wait_for(asyncio.to_thread(process.wait), TIMEOUT_S)


def request(message_id: str, body: Request) -> RequestMessage:
    return RequestMessage(
        message_id=message_id, job_id="job", query_id="q", reply_to=REPLY_TO, body=body
    )


async def answers(client: BusClient, count: int) -> dict[str, object]:
    received: dict[str, object] = {}
    end = time.monotonic() + TIMEOUT_S
    while len(received) < count:
        assert time.monotonic() < end, f"only {sorted(received)} answered"
        for reply in await client.receive(1.0):
            received[reply.message_id] = reply.body
    return received


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
        language="tests.integration.agents.failing_engines:loses_its_device",
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
