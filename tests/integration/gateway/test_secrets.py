"""A password in XR_REDIS_URL shows nowhere: not in logs, not in errors, not in problems."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis as BlockingRedis

from broker.rq_worker import connect_sync
from gateway.app import create_app
from gateway.redis_client import blocking_redis, gateway_redis
from shared.bus.connection import address, connect, wait_until_reachable
from shared.errors import ConfigurationError
from shared.redis_server import PrivateRedis
from shared.settings import Settings, load_settings, mask_secrets
from tests.integration.gateway.test_local_stack import PROFILE

USER, PASSWORD = "someone-Zq7", "hush-Zq7-hush"
MALFORMED = (
    f"redis://{USER}:{PASSWORD}/{PASSWORD}@127.0.0.1:1/0",  # a slash that nobody has escaped
    f"redis://:{PASSWORD}@127.0.0.1:{PASSWORD}/0",
    f"redis://{USER}:[{PASSWORD}@127.0.0.1:1/0",
    f"http://{USER}:{PASSWORD}@127.0.0.1:1/0",
    f"{USER}:{PASSWORD}@127.0.0.1:1",
    f"redis://{USER}:{PASSWORD}@127.0.0.1:1/{PASSWORD}?db={PASSWORD}",
)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    """A Redis with a password, and not the one we say."""
    with PrivateRedis(tmp_path_factory.mktemp("redis")) as server:
        with BlockingRedis.from_url(server.url) as client:
            client.config_set("requirepass", "another")
        yield server


def wrong_url(server: PrivateRedis) -> str:
    return f"redis://{USER}:{PASSWORD}@127.0.0.1:{server.port}/0"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:p@host:1/0", "redis://***@host:1/0"),
        ("at redis://u:p/q@r@host:1/0 now", "at redis://***@host:1/0 now"),
        ("redis://host?password=p&db=1", "redis://host?password=***&db=1"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("mail me@example.org", "mail me@example.org"),
    ],
)
def test_credentials_in_urls_are_masked(text: str, shown: str) -> None:
    assert mask_secrets(text) == shown


def test_settings_never_print_a_password() -> None:
    for url in (
        MALFORMED[0],
        *MALFORMED[2:4],
        f"redis://h?password={PASSWORD}",
        f"unix://:{PASSWORD}@/tmp/r",
    ):
        settings = load_settings({"XR_REDIS_URL": url, "XR_GATEWAY_URL": url})
        for shown in (repr(settings), str(settings), f"{settings.masked()}"):
            assert PASSWORD not in shown


@pytest.mark.parametrize("url", MALFORMED)
def test_a_malformed_url_is_refused_without_quoting_it(url: str) -> None:
    for open_redis in (connect, lambda url: gateway_redis(Settings(redis_url=url)),
                       lambda url: blocking_redis(Settings(redis_url=url))):  # fmt: skip
        try:
            client = open_redis(url)
        except ConfigurationError as error:
            assert "XR_REDIS_URL" in str(error)
            assert PASSWORD not in f"{error} {error.__cause__}"
            assert error.__suppress_context__
        else:
            assert PASSWORD not in repr(client)


async def test_a_refused_login_says_where_but_not_as_whom(guarded: PrivateRedis) -> None:
    redis = connect(wrong_url(guarded))
    with pytest.raises(ConfigurationError, match=str(guarded.port)) as raised:
        await wait_until_reachable(redis)
    await redis.aclose()
    for shown in (str(raised.value), repr(raised.value.__cause__), repr(redis), address(redis)):
        assert PASSWORD not in shown
    with connect_sync(wrong_url(guarded)) as blocking:
        assert PASSWORD not in repr(blocking)


async def test_problems_of_a_gateway_that_may_not_log_in_hold_no_password(
    guarded: PrivateRedis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    for url in (wrong_url(guarded), f"redis://{USER}:{PASSWORD}@127.0.0.1:1/0"):
        settings = Settings(redis_url=url, home=tmp_path)
        redis = gateway_redis(settings)
        app = create_app(settings, redis)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://gateway") as http,
        ):
            for path in ("/readyz", "/metrics", "/v1/agents", "/v1/benchmarks"):
                response = await http.get(path)
                assert PASSWORD not in response.text
        await redis.aclose()
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "broker", "--burst"],
        ["-m", "agents", "similarity"],
        ["-m", "gateway.cli", "gateway", "--port", "0"],
        ["-m", "gateway.cli", "status"],
    ],
)
@pytest.mark.parametrize("url", ["refused", "malformed"])
async def test_no_program_prints_the_password(
    guarded: PrivateRedis, tmp_path: Path, command: list[str], url: str
) -> None:
    profile = tmp_path / "profile.toml"
    profile.write_text(PROFILE)
    environment = {
        **os.environ,
        "XR_PROFILE": str(profile),
        "XR_REDIS_URL": wrong_url(guarded) if url == "refused" else MALFORMED[0],
        "XR_HOME": str(tmp_path),
        "XR_LOG_LEVEL": "debug",
        "XR_GATEWAY_URL": f"http://{USER}:{PASSWORD}@127.0.0.1:1",
        "OMP_NUM_THREADS": "1",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command,
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(40):
            assert process.stdout is not None
            serves = url == "refused" and command[-1] == "0"  # the gateway waits for requests
            printed = await (process.stdout.readline() if serves else process.stdout.read())
    finally:
        if process.returncode is None:
            process.terminate()
        rest, _ = await process.communicate()
    shown = (printed + rest).decode()
    assert shown.strip(), "it says what is wrong"
    assert PASSWORD not in shown
    if not serves:
        assert process.returncode
