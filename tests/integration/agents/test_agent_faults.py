"""Whole agent processes that freeze, die, hang or run out of memory, and what others make of it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.bus.client import BusClient
from shared.contracts.messages import Failure, RequestMessage
from shared.contracts.skills import CandidatesVerified, VerifyImages
from shared.galleries import Gallery
from shared.redis_server import PrivateRedis
from tests.integration.agents.failing_engines import GO_ON
from tests.integration.agents.processes import (
    REPLY_TO,
    TIMEOUT_S,
    Processes,
    answers,
    ended,
    request,
)
from tests.unit.agents.scenes import make_gallery, write_pictures

TROUBLED = "tests.integration.agents.failing_engines:troubled"


@pytest.fixture
def gallery(processes: Processes) -> Gallery:
    return make_gallery(
        processes.home / "galleries", write_pictures(processes.home / "pictures", 2)
    )


@pytest.fixture
async def client(redis: Redis) -> AsyncIterator[BusClient]:
    bus = BusClient(redis, REPLY_TO)
    yield bus
    await bus.aclose()


@pytest.fixture
def go_on(tmp_path: Path) -> Path:
    return tmp_path / "go-on"


def verify(gallery: Gallery, message_id: str, question: str) -> RequestMessage:
    return request(message_id, VerifyImages(gallery.key, (0,), (question,)))


async def in_hand(client: BusClient, count: int) -> None:
    end = time.monotonic() + TIMEOUT_S
    while (await client.depth("question")).pending < count:
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


async def test_a_frozen_process_that_wakes_up_records_nothing_late(
    processes: Processes, redis_url: str, client: BusClient, gallery: Gallery, go_on: Path
) -> None:
    # Given a process that is frozen with a message in its model
    frozen = processes.start(
        "question", redis_url=redis_url, language=TROUBLED, name="frozen", **{GO_ON: str(go_on)}
    )
    await processes.wait_for_event("serving question", "frozen")
    await client.send([verify(gallery, "a", "Is it stuck?")])
    await in_hand(client, 1)
    frozen.send_signal(signal.SIGSTOP)
    # When another has answered it after its lease, and the first wakes up and finishes
    processes.start("question", redis_url=redis_url, name="second")
    assert isinstance((await answers(client, 1))["a"], CandidatesVerified)
    await asyncio.to_thread(go_on.touch)
    frozen.send_signal(signal.SIGCONT)
    await processes.wait_for_event("1 of 1 answers came too late and were not recorded", "frozen")
    # Then there is no second answer, and the first process serves on
    assert await client.receive(0) == []
    await client.send([verify(gallery, str(n), "Is it red?") for n in range(2)])
    assert set(await answers(client, 2)) == {"0", "1"}
    frozen.send_signal(signal.SIGTERM)
    assert await ended(frozen) == 0


async def test_a_message_that_kills_every_process_is_given_up_after_three_and_harms_no_other(
    processes: Processes, redis_url: str, client: BusClient, gallery: Gallery
) -> None:
    # Given a poisonous message amid others
    await client.send(
        [
            verify(gallery, "before", "Is it red?"),
            verify(gallery, "poison", "Is it poison?"),
            verify(gallery, "after", "Is it blue?"),
        ]
    )
    # When a supervisor starts a new process for each that is killed
    deaths = 0
    bodies: dict[str, object] = {}
    process = processes.start("question", redis_url=redis_url, language=TROUBLED, XR_LEASE_S="0.5")
    end = time.monotonic() + TIMEOUT_S
    while len(bodies) < 3:
        assert time.monotonic() < end
        bodies |= {reply.message_id: reply.body for reply in await client.receive(0.1)}
        if process.poll() is not None:
            deaths += 1
            process = processes.start(
                "question", redis_url=redis_url, language=TROUBLED, XR_LEASE_S="0.5"
            )
    # Then it is given up after three deliveries, with the reason, and the others are answered
    assert deaths == 3
    assert isinstance(bodies["poison"], Failure)
    assert "no answer after 3 deliveries" in bodies["poison"].reason
    assert isinstance(bodies["before"], CandidatesVerified)
    assert isinstance(bodies["after"], CandidatesVerified)
    (letter,) = await client.dead_letters("question")
    assert "3 deliveries" in letter.reason


async def test_a_process_whose_model_hangs_ends_itself_and_its_messages_go_to_others(
    processes: Processes, redis_url: str, client: BusClient, gallery: Gallery, go_on: Path
) -> None:
    hanging = processes.start(
        "question", redis_url=redis_url, language=TROUBLED, name="hanging",
        **{GO_ON: str(go_on)}, XR_ENGINE_TIMEOUT_S="1.5",
    )  # fmt: skip
    await processes.wait_for_event("serving question", "hanging")
    await client.send([verify(gallery, "a", "Is it stuck?"), verify(gallery, "b", "Is it red?")])
    await in_hand(client, 1)
    assert await ended(hanging) == 3
    assert any("longer than XR_ENGINE_TIMEOUT_S = 1.5" in e for e in processes.events("hanging"))
    assert await client.receive(0) == []
    # Another, in better health, answers all
    processes.start("question", redis_url=redis_url, name="second")
    received = await answers(client, 2)
    assert {type(body) for body in received.values()} == {CandidatesVerified}


async def test_a_process_told_to_stop_hands_back_what_it_cannot_finish_in_time(
    processes: Processes, redis_url: str, client: BusClient, gallery: Gallery, go_on: Path
) -> None:
    # Given a process with a long batch in its model, whose lease would last for minutes
    stopping = processes.start(
        "question", redis_url=redis_url, language=TROUBLED, name="stopping",
        **{GO_ON: str(go_on)}, XR_GRACE_S="0.5", XR_LEASE_S="200",
    )  # fmt: skip
    await processes.wait_for_event("serving question", "stopping")
    await client.send([verify(gallery, "a", "Is it stuck?")])
    await in_hand(client, 1)
    second = processes.start("question", redis_url=redis_url, name="second", XR_LEASE_S="200")
    await processes.wait_for_event("serving question", "second")
    # When it is told to stop
    stopping.send_signal(signal.SIGTERM)
    assert await ended(stopping) == 0
    # Then the other takes the message over at once, and suspects nobody
    handed_back_s = time.monotonic()
    assert isinstance((await answers(client, 1))["a"], CandidatesVerified)
    assert time.monotonic() - handed_back_s < 20
    assert not any("died or froze" in event for event in processes.events("second"))
    assert any("handed back 1 messages" in event for event in processes.events("stopping"))
    second.send_signal(signal.SIGTERM)
    assert await ended(second) == 0


async def test_a_batch_too_large_for_the_memory_is_halved_and_only_the_hopeless_item_fails(
    processes: Processes, redis_url: str, client: BusClient, gallery: Gallery
) -> None:
    questions = {str(n): "Is it red?" for n in range(10)} | {"huge": "Is it huge?"}
    await client.send([verify(gallery, name, text) for name, text in questions.items()])
    process = processes.start("question", redis_url=redis_url, language=TROUBLED)
    received = await answers(client, 11)
    huge = received.pop("huge")
    assert isinstance(huge, Failure)
    assert "CUDA out of memory" in huge.reason
    assert huge.retryable
    assert all(isinstance(body, CandidatesVerified) for body in received.values())
    assert any("a batch of 11 failed" in event for event in processes.events())
    assert process.poll() is None


async def test_the_probes_of_a_process_tell_the_truth(
    processes: Processes, short_folder: Path, gallery: Gallery, go_on: Path
) -> None:
    port = free_port()
    with PrivateRedis(short_folder, append_only=False) as server:
        redis = Redis.from_url(server.url)
        client = BusClient(redis, REPLY_TO)
        process = processes.start(
            "question", redis_url=server.url, language=TROUBLED, **{GO_ON: str(go_on)},
            XR_HEALTH_PORT=str(port), XR_CANARY_S="0.4", XR_ENGINE_TIMEOUT_S="3",
        )  # fmt: skip
        # Green once the models are loaded, and while canaries pass
        status, verdict = await probe(port, "/readyz", until=200)
        assert verdict == {"ok": True, "reasons": []}
        assert await probe(port, "/livez") == (200, {"ok": True, "reasons": []})
        await client.send([verify(gallery, "a", "Is it red?")])
        await answers(client, 1)
        figures = await metrics(port)
        assert figures['xr_agent_answered_total{agent="question"}'] == 1
        assert figures['xr_agent_batch_seconds_count{agent="question"}'] == 1
        assert figures['xr_agent_dead_lettered_total{agent="question"}'] == 0
        assert figures["xr_agent_ready"] == 1
        assert figures['xr_agent_model_seconds_total{agent="question"}'] > 0
        # Red while Redis is away, green when it is back
        server.kill()
        status, verdict = await probe(port, "/readyz", until=503)
        assert verdict["reasons"] == ["Redis is away"]
        assert (await probe(port, "/livez"))[0] == 200
        server.start()
        await probe(port, "/readyz", until=200)
        # Green while a batch is under way within its limit, red in the last moment before the end
        await client.send([verify(gallery, "b", "Is it stuck?")])
        assert await ended(process) == 3
        assert status == 503
        await client.aclose()
        await redis.aclose()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def get(port: int, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except OSError:
        return 0, b"null"


async def probe(port: int, path: str, until: int | None = None) -> tuple[int, Any]:
    """The answer, or the first one with the status `until`."""
    end = time.monotonic() + TIMEOUT_S
    while True:
        status, body = await asyncio.to_thread(get, port, path)
        if status == until or (until is None and status):
            return status, json.loads(body)
        assert time.monotonic() < end, f"{path} answers {status}: {body!r}"
        await asyncio.sleep(0.05)


async def metrics(port: int) -> dict[str, float]:
    status, body = await asyncio.to_thread(get, port, "/metrics")
    assert status == 200
    lines = [line for line in body.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}
