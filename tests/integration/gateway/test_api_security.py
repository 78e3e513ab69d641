"""Strangers at the door: uploads that lie, other keys' galleries, addresses to be fetched."""

from __future__ import annotations

import io
import socket
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from redis.asyncio import Redis

from gateway.api_keys import ApiKeys
from gateway.app import create_app
from shared.image_files import MAX_BYTES
from shared.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    """One folder of images; uploads of at most a megabyte; callers need keys."""
    pictures = tmp_path / "data" / "pictures"
    pictures.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(pictures / "a.png")
    return Settings(
        redis_url=redis_url,
        home=tmp_path / "home",
        data_root=tmp_path / "data",
        api_keys="required",
        max_upload_mb=1,
    )


class Door:
    """The application, and two callers with keys of their own."""

    def __init__(self, http: httpx.AsyncClient, settings: Settings) -> None:
        self.http, self.settings = http, settings
        self.mine, self.other = (self._key("read", "search", "bench") for _ in range(2))

    def _key(self, *scopes: str) -> dict[str, str]:
        _, token = ApiKeys(self.settings.home).create("test", scopes)
        return {"Authorization": f"Bearer {token}"}

    async def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {**self.mine, **more.pop("headers", {})}
        return await self.http.request(method, path, headers=headers, **more)


@pytest.fixture
async def door(settings: Settings, redis: Redis) -> AsyncIterator[Door]:
    app = create_app(settings, redis)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://gateway") as http,
    ):
        yield Door(http, settings)


def picture(kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 20), "red").save(stream, kind)
    return stream.getvalue()


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


async def test_galleries_of_another_key_are_not_there(door: Door) -> None:
    body = {"name": "mine", "folder": "pictures"}
    created = await door.ask("POST", "/v1/galleries", json=body)
    assert created.status_code == 202, created.text
    run = created.json()["benchmark_id"]
    search = {"gallery": "mine", "modification_text": "x"}
    for method, path, more in (
        ("GET", "/v1/galleries/mine", {}),
        ("DELETE", "/v1/galleries/mine", {}),
        ("GET", "/v1/galleries/mine/images", {}),
        ("GET", "/v1/galleries/mine/images/a.png", {}),
        ("POST", "/v1/search", {"json": search}),
        ("POST", "/v1/search/stream", {"json": search}),
        ("GET", f"/v1/benchmarks/{run}", {}),
    ):
        answer = await door.ask(method, path, headers=door.other, **more)
        assert answer.status_code == 404, (method, path, answer.text)
    assert (await door.ask("GET", "/v1/galleries", headers=door.other)).json()["total"] == 0
    assert (await door.ask("GET", "/v1/galleries/mine")).json()["name"] == "mine"


async def test_the_same_idempotency_key_of_two_callers_is_two(door: Door) -> None:
    files = [("images", ("a.png", picture()))]
    told = []
    for caller in (door.mine, door.other):
        headers = {**caller, "Idempotency-Key": "a"}
        answer = await door.ask(
            "POST", "/v1/galleries", data={"name": "mine"}, files=files, headers=headers
        )
        told.append(answer.status_code)
    assert told == [202, 409]


@pytest.mark.parametrize(
    "content",
    [
        b"<html><script>alert(1)</script></html>",
        b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
        b"%PDF-1.7\n",
        b"MZ\x90\x00" * 30,
        b"\x89PNG\r\n\x1a\n" + b"\x00" * 40,
        b"",
    ],
)
async def test_what_is_no_image_is_refused_whatever_it_says_it_is(
    door: Door, content: bytes
) -> None:
    answer = await door.ask(
        "POST", "/v1/uploads", content=content, headers={"Content-Type": "image/png"}
    )
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:xr:problem:no-image")


async def test_an_image_is_served_as_what_it_is_not_as_what_it_was_called(door: Door) -> None:
    answer = await door.ask(
        "POST", "/v1/uploads", content=picture("GIF"), headers={"Content-Type": "text/html"}
    )
    assert answer.json()["media_type"] == "image/gif"
    shown = await door.ask("GET", f"/v1/uploads/{answer.json()['id']}")
    assert shown.headers["content-type"] == "image/gif"
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in shown.headers["content-security-policy"]


async def test_an_upload_that_is_too_large_is_refused_declared_or_not(door: Door) -> None:
    async def chunks(size: int) -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="archive"; filename="a.zip"\r\n\r\n'
        for _ in range(0, size, 1_000_000):
            yield bytes(1_000_000)

    for path, limit in (("/v1/uploads", MAX_BYTES), ("/v1/galleries", 1_000_000)):
        form = {"Content-Type": "multipart/form-data; boundary=x"}
        declared = {**form, "Content-Length": str(limit + 1)}
        answer = await door.ask("POST", path, content=b"x", headers=declared)
        assert answer.status_code == 413, path
        answer = await door.ask("POST", path, content=chunks(limit + 2_000_000), headers=form)
        assert answer.status_code == 413, (path, answer.text)
    assert not list(door.settings.home.rglob("*.png"))


@pytest.mark.parametrize(
    "name", ["../../evil.png", "/evil.png", "a/../../evil.png", "..\\evil.png", "C:\\evil.png"]
)
async def test_no_member_of_an_archive_leaves_the_gallery(door: Door, name: str) -> None:
    archive = {"archive": ("a.zip", zipped(**{"good.png": picture(), name: picture("JPEG")}))}
    answer = await door.ask("POST", "/v1/galleries", data={"name": "bad"}, files=archive)
    assert answer.status_code == 422, answer.text
    assert "out of the gallery" in answer.json()["detail"]
    assert not list(door.settings.home.parent.rglob("*evil*"))
    assert not list(door.settings.uploaded_galleries_folder.rglob("*.png"))


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        yield server


async def test_an_address_in_a_request_is_never_fetched(
    door: Door, listening: socket.socket
) -> None:
    # Given somebody who would notice a connection
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/a.png"
    # When his address stands wherever a name, a path or an id may stand
    search = {"gallery": "0" * 32, "modification_text": url, "timeout_s": 1}
    requests: list[tuple[str, dict[str, Any]]] = [
        ("/v1/benchmarks", {"json": {"dataset": url, "split": "all"}}),
        ("/v1/benchmarks", {"json": {"dataset": f"folder:{url}", "split": "all"}}),
        ("/v1/galleries", {"json": {"name": "far", "folder": url}}),
        ("/v1/galleries", {"data": {"name": "far", "archive": url}}),
        ("/v1/galleries", {"data": {"name": "far", "images": url}}),
        ("/v1/uploads", {"content": url.encode()}),
        ("/v1/search", {"json": {**search, "gallery": url}}),
        ("/v1/search", {"json": {**search, "reference_upload": url}}),
        ("/v1/search", {"json": {**search, "reference_image_id": url}}),
    ]
    for path, more in requests:
        answer = await door.ask("POST", path, **more)
        # Then it is refused, or there are no agents to search by
        assert answer.status_code in (404, 415, 422, 503), (path, more, answer.text)
    # And nobody has called
    with pytest.raises(BlockingIOError):
        listening.accept()
