"""`xr gallery` and the client's changes of galleries: what they send, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from gateway.client import Client
from gateway.commands import gallery
from shared.errors import ConfigurationError


class Recorder:
    """Answers every change, and keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        update = {"gallery": "mine", "version": len(self.requests) + 1, "state": "queued"}
        return httpx.Response(202, json=update)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def client(recorder: Recorder) -> Client:
    return Client("http://gateway", transport=httpx.MockTransport(recorder))


def test_images_are_sent_under_their_ids_with_their_fields(
    client: Client, recorder: Recorder, tmp_path: Path
) -> None:
    (tmp_path / "file.png").write_bytes(b"pixels")
    images = {"a/red.png": tmp_path / "file.png", "blue.png": b"others"}
    client.put_images("mine", images, metadata={"blue.png": {"price": 3}}, idempotency_key="k")
    (request,) = recorder.requests
    assert (request.method, request.url.path) == ("POST", "/v1/galleries/mine/images")
    assert request.headers["idempotency-key"] == "k"
    for part in (b'filename="a/red.png"', b"pixels", b'filename="blue.png"', b"others"):
        assert part in request.content
    assert json.dumps({"blue.png": {"price": 3}}).encode() in request.content


def test_fields_alone_are_a_form_too_and_removals_are_json(
    client: Client, recorder: Recorder
) -> None:
    client.put_images("mine", {}, metadata={"blue.png": {"price": 3}})
    client.remove_images("mine", ["a/red.png", "blue.png"])
    client.refresh_gallery("mine")
    fields, removal, refresh = recorder.requests
    assert fields.headers["content-type"].startswith("multipart/form-data")
    assert b'name="metadata"' in fields.content
    assert json.loads(removal.content) == {"image_ids": ["a/red.png", "blue.png"]}
    assert refresh.url.path == "/v1/galleries/mine/refresh"


def test_many_images_are_sent_in_several_requests(
    client: Client, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "_FILES_AT_ONCE", 2)
    images = {}
    for number in range(5):
        images[f"{number}.png"] = tmp_path / f"{number}.png"
        images[f"{number}.png"].write_bytes(b"pixels")
    update = gallery._put(client, "mine", images, {"4.png": {"price": 3}})
    assert [request.content.count(b"filename=") for request in recorder.requests] == [2, 2, 1]
    assert [b"price" in request.content for request in recorder.requests] == [False, False, True]
    assert update.version == 4, "the last change, with all others before it"


def test_a_folder_stands_for_its_images_by_their_paths_within(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("in/a.png", "in/deep/b.jpg", "in/notes.txt", "c.png", "a.png"):
        (tmp_path / name).write_bytes(b"")
    found = gallery._images_of([tmp_path / "in", tmp_path / "c.png"])
    assert isinstance(found, dict)
    assert sorted(found) == ["a.png", "c.png", "deep/b.jpg"]
    with pytest.raises(ConfigurationError, match=r"two files would be image 'a\.png'"):
        gallery._images_of([tmp_path / "in", tmp_path / "a.png"])
    assert gallery._images_of([tmp_path / "all.ZIP"]) == tmp_path / "all.ZIP"


def test_a_malformed_line_of_fields_is_named(tmp_path: Path) -> None:
    path = tmp_path / "fields.jsonl"
    path.write_text('{"image_id": "a", "fields": {"price": 1}}\n\n{"image_id": "b"}\n')
    with pytest.raises(ConfigurationError, match=r"fields\.jsonl, line 3: .*fields"):
        gallery._fields_of(path)
