"""Real vLLM against the transformers backend: the same answers, and what is computed only once."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from vllm.v1.engine.exceptions import EngineDeadError

import agents
from agents.backends.contract import ChoiceRequest, GenerationRequest, ImageFile, Prompt
from agents.backends.transformers import load as load_transformers
from agents.backends.vllm import VllmModel
from agents.imagination.schemas import IMAGE_IMAGINATION
from agents.prompting import load_prompts
from agents.skill_prompts import (
    caption_prompt,
    compare_prompt,
    imagine_image_prompt,
    verify_image_prompt,
)
from shared.demo_world.render import render
from shared.demo_world.scene import random_scene
from shared.errors import ConfigurationError, ItemError
from shared.urgency import Urgency, answering
from tests.unit.agents.tiny_checkpoints import write_vision_checkpoint
from tests.with_vllm.engines import image_file, on_cpu

DEMO_VISION = Path(agents.__file__).parent / "checkpoints" / "demo" / "vision"
QUESTIONS = ("Is the background grass?", "Is there a red heart?", "Are there two large stars?")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[ImageFile]:
    folder, draw, pixels = (
        tmp_path_factory.mktemp("scenes"),
        random.Random(7),
        np.random.default_rng(7),
    )
    for number in range(12):
        Image.fromarray(render(random_scene(draw), pixels)).save(folder / f"{number}.png")
    return [image_file(path) for path in sorted(folder.iterdir())]


class TestTheShippedCheckpoint:
    @pytest.fixture(scope="class")
    @staticmethod
    def vllm() -> Iterator[VllmModel]:
        model = on_cpu(DEMO_VISION)
        yield model
        model.close()

    @pytest.fixture(scope="class")
    @staticmethod
    def requests(scenes: list[ImageFile]) -> list[ChoiceRequest]:
        prompts = load_prompts("compact")
        return [
            ChoiceRequest(verify_image_prompt(prompts, image, question))
            for image in scenes
            for question in QUESTIONS
        ]

    def test_p_yes_is_that_of_the_transformers_backend(
        self, vllm: VllmModel, requests: list[ChoiceRequest]
    ) -> None:
        torch.set_num_threads(1)
        reference = load_transformers(str(DEMO_VISION)).choose(requests)
        answers = vllm.choose(requests)
        gaps = [
            abs(ours[0] - theirs[0])
            for ours, theirs in zip(answers, reference, strict=True)
            if not isinstance(ours, ItemError) and not isinstance(theirs, ItemError)
        ]
        assert len(gaps) == len(requests)
        assert max(gaps) < 1e-3

    def test_what_it_writes_is_what_the_transformers_backend_writes(
        self, vllm: VllmModel, scenes: list[ImageFile]
    ) -> None:
        prompts = load_prompts("compact")
        asked = [GenerationRequest(caption_prompt(prompts, image), 80) for image in scenes] + [
            GenerationRequest(
                imagine_image_prompt(prompts, "make it night", scenes[0]), 160, IMAGE_IMAGINATION
            )
        ]
        assert vllm.generate(asked) == load_transformers(str(DEMO_VISION)).generate(asked)

    def test_a_request_that_cannot_be_answered_fails_alone(
        self,
        vllm: VllmModel,
        scenes: list[ImageFile],
        requests: list[ChoiceRequest],
        tmp_path: Path,
    ) -> None:
        broken = tmp_path / "broken.png"
        broken.write_bytes(scenes[0].path.read_bytes()[:100])
        prompts = load_prompts("compact")
        bad = [
            ChoiceRequest(verify_image_prompt(prompts, image_file(broken), "Is it red?")),
            ChoiceRequest(verify_image_prompt(prompts, scenes[0], "red " * 5000)),
            ChoiceRequest(Prompt("<IMG_CONTEXT>", (scenes[0],))),
        ]
        undecodable, too_long, *_, good = vllm.choose([*bad, requests[0]])
        assert isinstance(undecodable, ItemError) and "broken.png" in str(undecodable)
        assert isinstance(too_long, ItemError) and "context" in str(too_long)
        assert not isinstance(good, ItemError)

    def test_several_choices_in_a_row_are_those_of_the_transformers_backend(
        self, vllm: VllmModel, scenes: list[ImageFile]
    ) -> None:
        asked = [
            ChoiceRequest(Prompt("\n".join(QUESTIONS), (image,)), count=len(QUESTIONS))
            for image in scenes[:4]
        ]
        reference = load_transformers(str(DEMO_VISION)).choose(asked)
        for ours, theirs in zip(vllm.choose(asked), reference, strict=True):
            assert not isinstance(ours, ItemError) and not isinstance(theirs, ItemError)
            assert len(ours) == 2 * len(QUESTIONS)
            assert ours == pytest.approx(theirs, abs=1e-3)

    def test_many_threads_share_the_engine(
        self, vllm: VllmModel, requests: list[ChoiceRequest]
    ) -> None:
        alone = vllm.choose(requests)
        with ThreadPoolExecutor(8) as threads:
            together = list(threads.map(lambda request: vllm.choose([request])[0], requests))
        for one, other in zip(alone, together, strict=True):
            assert not isinstance(one, ItemError) and not isinstance(other, ItemError)
            assert one[0] == pytest.approx(other[0], abs=1e-4)


class TestImagesOfFullSize:
    """256 tokens an image, as InternVL3's: what the prefix cache must spare."""

    @pytest.fixture(scope="class")
    @staticmethod
    def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmModel]:
        folder = tmp_path_factory.mktemp("checkpoint")
        model = on_cpu(
            write_vision_checkpoint(folder, tile_px=448, patch_px=14, context_length=4096)
        )
        yield model
        model.close()

    def spent(self, vllm: VllmModel, requests: list[ChoiceRequest]) -> Counter[str]:
        before = Counter(vllm.counters)
        answers = vllm.choose(requests)
        assert not [answer for answer in answers if isinstance(answer, ItemError)]
        spent = Counter(vllm.counters)
        spent.subtract(before)
        return spent

    def asked(self, image: ImageFile, question: str) -> ChoiceRequest:
        return ChoiceRequest(verify_image_prompt(load_prompts("standard"), image, question))

    def test_the_second_question_about_an_image_computes_only_its_own_words(
        self, vllm: VllmModel, scenes: list[ImageFile]
    ) -> None:
        first = self.spent(vllm, [self.asked(scenes[0], QUESTIONS[0])])
        second = self.spent(vllm, [self.asked(scenes[0], QUESTIONS[1])])
        assert first["cached_tokens"] == 0 and first["prefilled_tokens"] > 256
        assert second["cached_tokens"] >= 256
        assert second["images_decoded"] == 0 and second["images_named"] == 1

    def test_questions_that_come_at_once_share_the_image(
        self, vllm: VllmModel, scenes: list[ImageFile]
    ) -> None:
        spent = self.spent(vllm, [self.asked(scenes[1], question) for question in QUESTIONS])
        assert spent["cached_tokens"] >= 2 * 256
        assert spent["images_decoded"] == 1

    def test_a_later_query_finds_the_image_still_there(
        self, vllm: VllmModel, scenes: list[ImageFile]
    ) -> None:
        self.spent(vllm, [self.asked(scenes[2], QUESTIONS[0])])
        self.spent(vllm, [self.asked(image, QUESTIONS[0]) for image in scenes[3:8]])
        later = self.spent(vllm, [self.asked(scenes[2], "Is it by the sea?")])
        assert later["cached_tokens"] >= 256

    def test_candidates_compared_with_one_reference_share_the_reference(
        self, vllm: VllmModel, scenes: list[ImageFile]
    ) -> None:
        prompts = load_prompts("standard")
        pairs = [
            ChoiceRequest(compare_prompt(prompts, scenes[8], candidate, "make it night"))
            for candidate in scenes[9:11]
        ]
        self.spent(vllm, pairs[:1])
        assert self.spent(vllm, pairs[1:])["cached_tokens"] >= 256

    def test_an_image_the_engine_has_dropped_is_sent_again(
        self, vllm: VllmModel, scenes: list[ImageFile]
    ) -> None:
        # named without ever having been sent
        vllm._images.learn([f"{scenes[11].sha256}-1"])
        spent = self.spent(vllm, [self.asked(scenes[11], QUESTIONS[0])])
        assert spent["images_decoded"] == 1 and spent["images_named"] == 0

    @pytest.mark.parametrize("listed", [True, False])
    def test_an_image_whose_engine_process_has_dropped_it_is_sent_again(
        self, vllm: VllmModel, scenes: list[ImageFile], listed: bool
    ) -> None:
        asked = self.asked(scenes[10], QUESTIONS[0])
        (first,) = vllm.choose([asked])
        # there alone: vLLM's front end takes it to be kept
        vllm._loop.run(vllm._engine.engine_core.reset_mm_cache_async())
        vllm._loop.run(vllm._engine.reset_encoder_cache())
        assert vllm._loop.run(vllm._engine.reset_prefix_cache())
        if not listed:
            vllm._images.forget([f"{scenes[10].sha256}-1"])
        before = vllm.counters["images_decoded"]
        (second,) = vllm.choose([asked])
        assert vllm.counters["images_decoded"] == before + 1
        assert second == pytest.approx(first, abs=1e-4)

    def test_a_known_image_in_front_of_other_words_is_the_same_to_the_model(
        self, vllm: VllmModel, scenes: list[ImageFile]
    ) -> None:
        questions = [self.asked(scenes[9], question) for question in QUESTIONS]
        known = [vllm.choose([question])[0] for question in questions]
        vllm._rendered._heads.clear()  # each is rendered as a whole again
        for one, other in zip(known, questions, strict=True):
            assert one == pytest.approx(vllm.choose([other])[0], abs=1e-4)

    def test_a_person_does_not_wait_behind_a_benchmark(
        self, vllm: VllmModel, scenes: list[ImageFile]
    ) -> None:
        # Several budgets full: between two of a person one is let in
        many = [self.asked(image, f"Is it number {n}?") for n in range(300) for image in scenes[:6]]
        with ThreadPoolExecutor(1) as threads:
            benchmark = threads.submit(vllm.choose, many)
            with answering(Urgency.INTERACTIVE):
                vllm.choose([self.asked(scenes[0], "Is there a person?")])
            assert not benchmark.done()
            answers = benchmark.result()
        assert not [answer for answer in answers if isinstance(answer, ItemError)]


class TestSecondLooks:
    """More tiles for single questions, by one engine."""

    def test_more_tiles_are_what_the_transformers_backend_sees(
        self, tmp_path: Path, scenes: list[ImageFile]
    ) -> None:
        folder = write_vision_checkpoint(tmp_path / "checkpoint", context_length=1024)
        wide = tmp_path / "wide.png"
        Image.open(scenes[0].path).resize((128, 32)).save(wide)
        plain = ChoiceRequest(Prompt("Is it red?", (image_file(wide),)))
        closer = ChoiceRequest(Prompt("Is it red?", (image_file(wide),), tiles=4))
        reference = load_transformers(str(folder)).choose([plain, closer])
        model = on_cpu(folder, context_length=1024, adaptive_tiles=4, undecided=(1.0, 1.0))
        try:
            answers = model.choose([plain, closer])
            again = model.choose([closer, plain])
        finally:
            model.close()
        assert np.allclose(np.array(answers, float), np.array(again[::-1], float))
        for ours, theirs in zip(answers, reference, strict=True):
            assert not isinstance(ours, ItemError) and not isinstance(theirs, ItemError)
            assert ours[0] == pytest.approx(theirs[0], abs=1e-3)
        assert answers[0] != answers[1]


class TestTrouble:
    def test_an_unknown_checkpoint_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="no-such-model"):
            on_cpu(tmp_path / "no-such-model")

    def test_a_dead_engine_is_told_from_a_bad_request(
        self, tmp_path: Path, scenes: list[ImageFile]
    ) -> None:
        before = _children()
        model = on_cpu(DEMO_VISION)
        for process_id in _children() - before:
            os.kill(process_id, signal.SIGKILL)
        with pytest.raises(EngineDeadError):
            for _ in range(100):  # it is noticed within moments, not at once
                model.choose([ChoiceRequest(Prompt("Is it red?", (scenes[0],)))])
                time.sleep(0.1)


def _children() -> set[int]:
    """Of all threads: the engine's processes are started by that of its loop."""
    listed = [task / "children" for task in Path("/proc/self/task").iterdir()]
    return {int(process_id) for file in listed for process_id in file.read_text().split()}
