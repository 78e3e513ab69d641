"""The engine behind HTTP, against a small chat server that can be told to fail."""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agents.backends.contract import ChoiceRequest, GenerationRequest, ImageFile, Prompt
from agents.backends.openai import OpenAiModel, load
from shared.errors import ConfigurationError, ItemError
from shared.urgency import Urgency, answering


class ChatServer(ThreadingHTTPServer):
    """Says Yes with probability 0.8 × 0.9; remembers images by uuid; fails as `scripted`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[dict[str, Any]] = []
        self.headers_seen: list[str] = []
        self.scripted: list[tuple[int, str, dict[str, str]]] = []
        self.images: set[str] = set()
        self.go_on = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def log_message(self, *args: Any) -> None:
        """Silent."""

    def do_GET(self) -> None:
        self._send(200, json.dumps({"data": [{"id": "tiny"}]}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.headers_seen.append(self.headers.get("authorization", ""))
        self.server.asked.append(body)
        text = json.dumps(body["messages"])
        if "slowly" in text:
            self.server.go_on.wait(10)
        if self.server.scripted:
            self._send(*self.server.scripted.pop(0))
        elif "nonsense" in text:
            self._send(200, "<html>")
        elif "too long" in text:
            self._send(400, json.dumps({"error": "longer than the context"}))
        elif self._unknown_image(body):
            self._send(400, json.dumps({"error": "unknown uuid"}))
        else:
            self._send(200, json.dumps(_completion(body)))

    def _unknown_image(self, body: dict[str, Any]) -> bool:
        content = body["messages"][-1]["content"]
        for part in content if isinstance(content, list) else ():
            if part["type"] == "image_url" and part["image_url"] is not None and "uuid" in part:
                self.server.images.add(part["uuid"])
            elif part["type"] == "image_url" and part["image_url"] is None:
                return part["uuid"] not in self.server.images
        return False

    def _send(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


def _completion(body: dict[str, Any]) -> dict[str, Any]:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 1,
        "prompt_tokens_details": {"cached_tokens": 60},
    }
    words = ["Yes"] if body["max_tokens"] == 1 else ["Yes", ",", " No", "."]
    likeliest = [("Yes", 0.72), (" yes", 0.0), ("No", 0.18), ("Maybe", 0.1)]
    logprobs = [{"token": word, "logprob": math.log(p)} for word, p in likeliest if p]
    choice = {
        "message": {"content": ' {"a": 1} ' if "response_format" in body else "Yes"},
        "logprobs": {"content": [{"token": word, "top_logprobs": logprobs} for word in words]},
    }
    return {"choices": [choice], "usage": usage}


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def model(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAiModel]:
    monkeypatch.setattr("agents.backends.openai._FIRST_PAUSE_S", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    loaded = load("tiny", base_url=server.url, server="vllm", attempts=3)
    yield loaded
    loaded.close()


@pytest.fixture
def image(tmp_path: Path) -> ImageFile:
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8), "red").save(path)
    return ImageFile(path, hashlib.sha256(path.read_bytes()).hexdigest())


def yes_no(text: str, *images: ImageFile) -> ChoiceRequest:
    return ChoiceRequest(Prompt(text, images))


def test_p_yes_is_among_yes_and_no_alone(model: OpenAiModel) -> None:
    (answer,) = model.choose([yes_no("Is it red?")])
    assert answer == pytest.approx((0.8, 0.2))
    assert model.counters["prefilled_tokens"] == 40
    assert model.counters["cached_tokens"] == 60


def test_a_schema_is_asked_for_by_its_present_name(server: ChatServer, model: OpenAiModel) -> None:
    (text,) = model.generate([GenerationRequest(Prompt("Imagine."), 50, {"type": "object"})])
    assert text == '{"a": 1}'
    assert server.asked[0]["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert server.asked[0]["stream"] is False


def test_one_request_that_is_refused_or_answered_by_nonsense_fails_alone(
    model: OpenAiModel,
) -> None:
    good, nonsense, refused = model.choose(
        [yes_no("Is it red?"), yes_no("nonsense"), yes_no("too long")]
    )
    assert good == pytest.approx((0.8, 0.2))
    assert isinstance(nonsense, ItemError) and "no chat completion" in str(nonsense)
    assert isinstance(refused, ItemError) and "longer than the context" in str(refused)


def test_a_busy_server_is_asked_again(server: ChatServer, model: OpenAiModel) -> None:
    server.scripted = [(429, "busy", {"retry-after": "0.01"}), (503, "starting", {})]
    (answer,) = model.choose([yes_no("Is it red?")])
    assert answer == pytest.approx((0.8, 0.2))
    assert model.counters["retries"] == 2


def test_a_server_that_stays_busy_fails_the_item_with_its_words(
    server: ChatServer, model: OpenAiModel
) -> None:
    server.scripted = [(500, "on fire", {})] * 3
    (answer,) = model.choose([yes_no("Is it red?")])
    assert isinstance(answer, ItemError)
    assert "3 attempts" in str(answer) and "on fire" in str(answer)
    assert "secret-key" not in str(answer)


def test_a_server_that_answers_too_slowly_fails_that_item_alone(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.backends.openai._FIRST_PAUSE_S", 0.01)
    model = load("tiny", base_url=server.url, attempts=2, timeout_s=0.3)
    slow, quick = model.choose([yes_no("Answer slowly."), yes_no("Is it red?")])
    server.go_on.set()
    model.close()
    assert isinstance(slow, ItemError)
    assert "no answer after 2 attempts: ReadTimeout" in str(slow)
    assert quick == pytest.approx((0.8, 0.2))


def test_several_choices_in_a_row_are_read_at_the_words_that_are_choices(
    model: OpenAiModel,
) -> None:
    asked = [ChoiceRequest(Prompt("Red? Round?"), count=count) for count in (2, 3)]
    both, too_few = model.choose(asked)
    assert both == pytest.approx((0.8, 0.2, 0.8, 0.2))
    assert isinstance(too_few, ItemError) and "not 3 times one of Yes, No" in str(too_few)


def test_an_image_is_sent_once_and_named_from_then_on(
    server: ChatServer, model: OpenAiModel, image: ImageFile
) -> None:
    model.choose([yes_no("Is it red?", image)])
    model.choose([yes_no("Is it round?", image)])
    first, second = (body["messages"][0]["content"] for body in server.asked)
    assert first[0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert second[0] == {"type": "image_url", "image_url": None, "uuid": image.sha256}
    assert [part["type"] for part in second] == ["image_url", "text"]  # image before question


def test_an_image_the_server_has_dropped_is_sent_again(
    server: ChatServer, model: OpenAiModel, image: ImageFile
) -> None:
    model.choose([yes_no("Is it red?", image)])
    server.images.clear()
    (answer,) = model.choose([yes_no("Is it round?", image)])
    assert answer == pytest.approx((0.8, 0.2))
    assert len(server.asked) == 3


def test_a_missing_image_never_reaches_the_server(
    server: ChatServer, model: OpenAiModel, tmp_path: Path
) -> None:
    (answer,) = model.choose([yes_no("Is it red?", ImageFile(tmp_path / "gone.png", "0" * 64))])
    assert isinstance(answer, ItemError) and "missing" in str(answer)
    assert server.asked == []


def test_a_persons_request_goes_before_a_benchmarks(server: ChatServer, model: OpenAiModel) -> None:
    model.choose([yes_no("Is it red?")])
    with answering(Urgency.INTERACTIVE):
        model.choose([yes_no("Is it round?")])
    background, interactive = (body["priority"] for body in server.asked)
    assert interactive < background


def test_the_key_is_sent_and_nowhere_shown(server: ChatServer, model: OpenAiModel) -> None:
    model.choose([yes_no("Is it red?")])
    assert server.headers_seen == ["Bearer secret-key"]
    assert "secret-key" not in str(model.describe())


def test_a_model_the_server_does_not_have_is_named(server: ChatServer) -> None:
    with pytest.raises(ConfigurationError, match="serves tiny, not huge"):
        load("huge", base_url=server.url)


def test_no_server_at_all_is_a_clear_error() -> None:
    with pytest.raises(ConfigurationError, match="no server answers at"):
        load("tiny", base_url="http://127.0.0.1:1/v1")
