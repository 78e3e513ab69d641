"""Who may do what in Redis, as docs/redis.md says, and TLS on the way there."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError
from rq import SimpleWorker

from broker.rq_worker import benchmark_queue, connect_sync
from broker.run_lease import RunLease
from broker.serializer import MsgpackSerializer
from gateway.redis_client import blocking_redis, gateway_redis
from shared.bus import keys
from shared.bus.client import BusClient
from shared.bus.connection import command, connect, wait_until_reachable
from shared.bus.consumer import Consumer
from shared.contracts.messages import RequestMessage
from shared.contracts.skills import TextsEmbedded
from shared.errors import ConfigurationError
from shared.redis_server import PrivateRedis
from shared.settings import Settings
from tests.integration.bus.scenes import (
    LEASE_S,
    REPLY_TO,
    Recorder,
    Start,
    abandon,
    collect,
    echo,
    request,
    until,
)
from tests.integration.bus.tls import self_made_certificates, tls_terminator

pytestmark = pytest.mark.usefixtures("redis_server")  # which skips where there is no server program

DOCUMENT = Path(__file__).resolve().parents[3] / "docs/redis.md"


def documented_users() -> str:
    """The ACL file of the document, each role's password "<role>-secret"."""
    found = re.search(r"```acl\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found
    return re.sub(r">([A-Z]+)_PASSWORD", lambda role: f">{role[1].lower()}-secret", found[1])


@pytest.fixture
def guarded(short_folder: Path) -> Iterator[PrivateRedis]:
    """A Redis that knows exactly the documented users."""
    users = short_folder / "users.acl"
    users.write_text(documented_users())
    with PrivateRedis(short_folder, options=("--aclfile", str(users))) as server:
        yield server


def url(server: PrivateRedis, role: str) -> str:
    return f"redis://{role}:{role}-secret@127.0.0.1:{server.port}/0"


async def test_a_whole_exchange_runs_under_the_documented_users(
    guarded: PrivateRedis, start: Start
) -> None:
    agent_redis, coordinator_redis = (connect(url(guarded, r)) for r in ("agent", "coordinator"))
    gateway = gateway_redis(Settings(redis_url=url(guarded, "gateway")))
    client = BusClient(coordinator_redis, REPLY_TO)
    board = BusClient(gateway, keys.reply("gateway"))
    try:
        # Given a message whose first worker dies, one that is handed back, malformed and newer ones
        await client.send([request("killed"), request("cancelled", job_id="stopped")])
        dying = Recorder()
        dying.released.clear()
        await abandon(
            Consumer(agent_redis, "similarity", dying, worker="dying", lease_s=LEASE_S, max_batch=1)
        )
        await client.send([request("a")], "hi")
        newer = RequestMessage(
            message_id="newer", job_id="j", query_id="q", reply_to=REPLY_TO,
            body=request("x").body, schema_version=2,
        )  # fmt: skip
        await client.send([newer])
        await coordinator_redis.xadd(keys.requests("similarity", "lo"), {"m": b"rubbish"})
        await client.cancel("stopped")
        stuck = Recorder()
        stuck.released.clear()
        giver = Consumer(agent_redis, "similarity", stuck, worker="giver", max_batch=1)
        giving = asyncio.create_task(giver.run())
        await stuck.entered.wait()
        await giver.hand_back()
        stuck.released.set()
        await giving
        # When an agent serves as its user
        async with start(echo, redis=agent_redis, worker="agent") as consumer:
            replies = {reply.message_id: reply.body for reply in await collect(client, 3)}
            await until(lambda: consumer.parked == 1 and consumer.too_new >= 1)
            # Then the coordinator has its answers, and the gateway sees everything
            assert isinstance(replies["killed"], TextsEmbedded)
            assert isinstance(replies["a"], TextsEmbedded)
            assert [living.worker for living in await board.live_agents()] == ["agent"]
            assert (await board.depth("similarity")).parked == 1
        async with start(redis=agent_redis, max_deliveries=0):
            await client.send([request("given up")])
            await collect(client, 1)
        await client.uncancel("stopped")
        (letter,) = await board.dead_letters("similarity")
        await board.retry_dead_letter("similarity", letter.entry_id)
    finally:
        await client.aclose()
        for redis in (agent_redis, coordinator_redis, gateway):
            await redis.aclose()


def test_jobs_and_runs_work_under_the_documented_users(guarded: PrivateRedis) -> None:
    settings = Settings(redis_url=url(guarded, "gateway"))
    gateway, coordinator = blocking_redis(settings), connect_sync(url(guarded, "coordinator"))
    try:
        job = benchmark_queue(gateway).enqueue("math.sqrt", 16.0)
        worker = SimpleWorker(
            [benchmark_queue(coordinator)], connection=coordinator, serializer=MsgpackSerializer
        )
        assert worker.work(burst=True)
        assert job.return_value() == 4.0
    finally:
        gateway.close()
        coordinator.close()

    async def own_a_run() -> None:
        redis = connect(url(guarded, "coordinator"))
        lease = RunLease(redis, "run")

        async def is_over() -> bool:
            return False

        assert await lease.acquire(is_over) == 1
        await lease.renew()
        await lease.release()
        await redis.aclose()

    asyncio.run(own_a_run())


FORBIDDEN_TO_AGENTS = [
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("CONFIG", "GET", "*"),
    ("KEYS", "*"),
    ("ACL", "LIST"),
    ("SCRIPT", "FLUSH"),
    ("SHUTDOWN",),
    ("DEBUG", "SLEEP", "0"),
    ("MONITOR",),
    ("CLIENT", "LIST"),
    ("LRANGE", "rq:queue:bench", "0", "-1"),
    ("HGETALL", "rq:job:1"),
    ("RPUSH", "rq:queue:bench", "job"),
    ("DEL", "rq:queue:bench"),
    ("DEL", "xr:run:1"),
    ("SET", "xr:run:1:owner", "me"),
    ("GET", "xr:submission:1"),
    ("SUBSCRIBE", "rq:pubsub:w"),
    ("EVAL", "return redis.call('DEL', 'rq:queue:bench')", "0"),
    ("EVAL", "return redis.call('FLUSHALL')", "0"),
]


async def test_an_agent_can_touch_nothing_but_its_messages(guarded: PrivateRedis) -> None:
    agent = connect(url(guarded, "agent"))
    for words in FORBIDDEN_TO_AGENTS:
        with pytest.raises((NoPermissionError, ResponseError)) as raised:
            await command(agent, *words)
        assert re.search("NOPERM|permission|can't run|can't access", str(raised.value)), words
    await agent.aclose()


@pytest.mark.parametrize("role", ["gateway", "coordinator"])
async def test_no_service_can_empty_or_configure_redis(guarded: PrivateRedis, role: str) -> None:
    redis = connect(url(guarded, role))
    for words in (
        *(("FLUSHALL",), ("FLUSHDB",), ("CONFIG", "GET", "*"), ("ACL", "LIST"), ("KEYS", "*")),
        *(("SHUTDOWN",), ("SCRIPT", "FLUSH"), ("GET", "somebody-elses"), ("MONITOR",)),
    ):
        with pytest.raises(NoPermissionError):
            await command(redis, *words)
    await redis.aclose()


async def test_without_a_user_nobody_comes_in(guarded: PrivateRedis) -> None:
    for stranger in (f"redis://127.0.0.1:{guarded.port}/0", url(guarded, "agent") + "x"):
        redis = connect(stranger.replace("agent-secret", "wrong"))
        with pytest.raises(ConfigurationError, match="cannot be used"):
            await asyncio.wait_for(wait_until_reachable(redis), 5)
        await redis.aclose()


async def test_all_services_speak_tls_by_the_url_alone(tmp_path: Path, start: Start) -> None:
    ca, certificate, key = self_made_certificates(tmp_path)
    with PrivateRedis(tmp_path / "data", append_only=False) as server:
        async with tls_terminator(certificate, key, server.port) as port:
            address = f"rediss://localhost:{port}/0?ssl_ca_certs={ca}"
            redis = connect(address)
            client = BusClient(redis, REPLY_TO)
            async with start(redis=redis, lease_s=LEASE_S):
                await client.send([request("a")])
                (reply,) = await collect(client, 1)
            assert isinstance(reply.body, TextsEmbedded)
            gateway = gateway_redis(Settings(redis_url=address))
            assert await gateway.ping()
            for blocking in (blocking_redis(Settings(redis_url=address)), connect_sync(address)):
                assert await asyncio.to_thread(blocking.ping)
                blocking.close()
            await gateway.aclose()
            # A certificate nobody vouches for, or of another name, is refused
            for wrong in (
                f"rediss://localhost:{port}/0",
                f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={ca}",
            ):
                stranger: Redis = connect(wrong)
                with pytest.raises(ConfigurationError, match=r"(?i)certificate"):
                    await wait_until_reachable(stranger, timeout_s=0.1)
                await stranger.aclose()
            await client.aclose()
            await redis.aclose()
