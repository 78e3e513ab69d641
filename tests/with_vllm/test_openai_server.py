"""The openai backend against vLLM's own OpenAI-compatible server."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import agents
from agents.backends.contract import ChoiceRequest, GenerationRequest, ImageFile, Prompt
from agents.backends.openai import OpenAiModel, load
from agents.backends.transformers import load as load_transformers
from agents.imagination.schemas import IMAGE_IMAGINATION
from agents.prompting import load_prompts
from agents.skill_prompts import imagine_image_prompt, verify_image_prompt
from shared.demo_world.render import render
from shared.demo_world.scene import random_scene
from shared.errors import ConfigurationError, ItemError
from tests.with_vllm.engines import image_file

DEMO_VISION = Path(agents.__file__).parent / "checkpoints" / "demo" / "vision"
QUESTIONS = ("Is the background grass?", "Is there a red heart?")
STARTS_WITHIN_S = 180.0


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[ImageFile]:
    folder = tmp_path_factory.mktemp("scenes")
    draw, pixels = random.Random(9), np.random.default_rng(9)
    for number in range(4):
        Image.fromarray(render(random_scene(draw), pixels)).save(folder / f"{number}.png")
    return [image_file(path) for path in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "server.log"
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    arguments = [
        *("--model", str(DEMO_VISION), "--served-model-name", "tiny", "--port", str(port)),
        *("--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager", "--block-size", "32"),
        *("--max-model-len", "1024", "--max-logprobs", "20"),
        *("--scheduling-policy", "priority"),
        *("--limit-mm-per-prompt", json.dumps({"image": 2, "video": 0})),
    ]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments],
            env=environment, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        end = time.monotonic() + STARTS_WITHIN_S
        while not _answers(f"http://127.0.0.1:{port}/v1/models"):
            assert server.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture
def model(url: str) -> Iterator[OpenAiModel]:
    opened = load("tiny", base_url=url, server="vllm", attempts=2)
    yield opened
    opened.close()


def test_answers_are_those_of_the_transformers_backend_and_known_images_are_not_sent(
    model: OpenAiModel, scenes: list[ImageFile]
) -> None:
    prompts = load_prompts("compact")
    asked = [
        [ChoiceRequest(verify_image_prompt(prompts, image, question)) for image in scenes]
        for question in QUESTIONS
    ]
    reference = load_transformers(str(DEMO_VISION))
    for requests in asked:
        for ours, theirs in zip(model.choose(requests), reference.choose(requests), strict=True):
            assert not isinstance(ours, ItemError), ours
            assert not isinstance(theirs, ItemError)
            assert ours[0] == pytest.approx(theirs[0], abs=1e-3)
    assert model.counters["images_sent"] == len(scenes)
    assert model.counters["images_named"] == len(scenes)
    assert model.counters["prefilled_tokens"] > 0


def test_json_is_held_to_its_schema(model: OpenAiModel, scenes: list[ImageFile]) -> None:
    prompt = imagine_image_prompt(load_prompts("compact"), "make it night", scenes[0])
    (answer,) = model.generate([GenerationRequest(prompt, 160, IMAGE_IMAGINATION)])
    assert not isinstance(answer, ItemError), answer
    assert set(json.loads(answer)) == set(IMAGE_IMAGINATION["properties"])


def test_a_prompt_beyond_the_context_fails_alone_with_the_server_s_words(
    model: OpenAiModel,
) -> None:
    long, short = model.choose(
        [ChoiceRequest(Prompt("red " * 4000)), ChoiceRequest(Prompt("Is it red?"))]
    )
    assert isinstance(long, ItemError) and "400" in str(long)
    assert not isinstance(short, ItemError)


def test_a_model_the_server_does_not_have_is_named(url: str) -> None:
    with pytest.raises(ConfigurationError, match="serves tiny, not other"):
        load("other", base_url=url)
