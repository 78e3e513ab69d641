"""Agent processes with models that cost nothing or fail, and the messages sent to them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from shared.bus.client import BusClient
from shared.contracts.messages import RequestMessage
from shared.contracts.skills import Request

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
        self,
        *agents: str,
        redis_url: str,
        language: str = "zero_cost",
        name: str = "w1",
        **settings: str,
    ) -> subprocess.Popen[bytes]:
        """`settings`: more of the environment."""
        profile = self.home / f"profile-{name}.toml"
        profile.write_text(PROFILE.format(language=language))
        environment = os.environ | {
            "XR_REDIS_URL": redis_url,
            "XR_HOME": str(self.home),
            "XR_PROFILE": str(profile),
            "XR_WORKER_NAME": name,
            "XR_LEASE_S": "2",
            **settings,
        }
        with self.log(name).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "agents", *agents], cwd=ROOT, env=environment, stderr=log
            )
        self.started.append(process)
        return process

    def log(self, name: str = "w1") -> Path:
        return self.home / f"{name}.log"

    def events(self, name: str = "w1") -> list[str]:
        """Every line of the log is one JSON object."""
        return [json.loads(line)["event"] for line in self.log(name).read_text().splitlines()]

    async def wait_for_event(self, text: str, name: str = "w1") -> None:
        end = time.monotonic() + TIMEOUT_S
        while not self.log(name).exists() or not any(text in e for e in self.events(name)):
            assert time.monotonic() < end, f"no {text!r} in {self.log(name).read_text()}"
            await asyncio.sleep(0.05)


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
