"""A private Redis starts, keeps its data, and says clearly why it can't."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from redis import Redis

from shared.errors import ConfigurationError
from shared.redis_server import PrivateRedis, find_redis_server

pytestmark = pytest.mark.usefixtures("redis_server")  # which skips where there is no server program


def test_it_listens_on_a_free_port_and_keeps_data_and_address_across_a_restart(
    tmp_path: Path,
) -> None:
    server = PrivateRedis(tmp_path / "data")
    with server:
        url = server.url
        with Redis.from_url(url) as client:
            client.set("key", "value")
            assert client.config_get("hz")["hz"] == "100"
            assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
    assert not server.is_running()
    with server:
        assert server.url == url
        with Redis.from_url(url) as client:
            assert client.get("key") == b"value"


def test_a_killed_server_starts_again_with_what_was_on_disk(short_folder: Path) -> None:
    server = PrivateRedis(short_folder, unix_socket=True)
    server.start()
    with Redis.from_url(server.url) as client:
        client.config_set("appendfsync", "always")
        client.set("key", "value")
    server.kill()
    assert not server.is_running()
    with server, Redis.from_url(server.url) as client:
        assert client.get("key") == b"value"


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port}"):
            PrivateRedis(tmp_path, port=port).start()


def test_two_servers_never_share_a_folder(short_folder: Path) -> None:
    with PrivateRedis(short_folder, unix_socket=True) as first:
        second = PrivateRedis(short_folder)
        with pytest.raises(ConfigurationError, match=rf"process {first.pid}\b"):
            second.start()
    with PrivateRedis(short_folder, unix_socket=True):  # free again once the first has ended
        pass


def test_starting_twice_is_starting_once(short_folder: Path) -> None:
    with PrivateRedis(short_folder, unix_socket=True) as server:
        pid = server.pid
        server.start()
        assert server.pid == pid


def test_a_server_that_ends_at_once_shows_its_log(short_folder: Path) -> None:
    (short_folder / "appendonly.aof").write_text("this is no append-only file\n")
    (short_folder / "appendonlydir").write_text("where Redis 7 wants a folder")
    server = PrivateRedis(short_folder, unix_socket=True)
    with pytest.raises(ConfigurationError, match=r"redis\.log ends"):
        server.start()
    assert not server.is_running()


def test_a_socket_path_longer_than_the_system_allows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="shorter folder"):
        PrivateRedis(tmp_path / ("x" * 100), unix_socket=True)


def test_without_any_server_program_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="embedded"):
        PrivateRedis(tmp_path).start()


def test_the_system_server_is_preferred_over_the_carried_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/opt/redis/redis-server")
    assert find_redis_server() == Path("/opt/redis/redis-server")
