"""The chat model on tiny random checkpoints: reproducible to the bit, exact, failing by item."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
import transformers
from PIL import Image

from agents.backends.chat_model import ChatModel
from agents.backends.contract import ChoiceRequest, GenerationRequest, ImageFile, Prompt
from agents.backends.transformers import load
from agents.imagination.schemas import IMAGE_IMAGINATION
from agents.json_answers import json_object
from agents.question.schemas import propositions_schema
from shared.errors import ConfigurationError, ItemError
from tests.unit.agents.scenes import image_files
from tests.unit.agents.tiny_checkpoints import write_text_checkpoint, write_vision_checkpoint

ROWS = 8
Request = TypeVar("Request")
Answer = TypeVar("Answer")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def vision_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vision_checkpoint(tmp_path_factory.mktemp("checkpoints") / "vision")


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_checkpoint(tmp_path_factory.mktemp("checkpoints") / "text")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[ImageFile]:
    return image_files(tmp_path_factory.mktemp("images"), 9)


@pytest.fixture(scope="module")
def vision(vision_folder: Path) -> ChatModel:
    return fresh(vision_folder)


def fresh(folder: Path) -> ChatModel:
    return load(str(folder), device="cpu", rows=ROWS)


def mixed_prompts(images: Sequence[ImageFile], count: int) -> list[Prompt]:
    """Prompts of many lengths with no, one and two images, with and without a system message."""
    rng = random.Random(5)
    return [
        Prompt(
            text=f"Is the {'red dress ' * rng.randrange(12)}{number}?",
            images=tuple(rng.choices(images, k=rng.choice([0, 1, 1, 2]))),
            system=rng.choice(["", "Be brief."]),
        )
        for number in range(count)
    ]


def asked_in_pieces(
    ask: Callable[[Sequence[Request]], list[Answer]], requests: Sequence[Request], size: int
) -> list[Answer]:
    """Shuffled and cut into batches of `size`, answers back in the order of the requests."""
    order = list(range(len(requests)))
    random.Random(size).shuffle(order)
    answers: dict[int, Answer] = {}
    for start in range(0, len(order), size):
        places = order[start : start + size]
        answers.update(zip(places, ask([requests[place] for place in places]), strict=True))
    return [answers[place] for place in range(len(requests))]


@pytest.mark.parametrize("size", [1, 3, 11, 48])
def test_choices_have_the_same_bits_in_any_batch(
    vision: ChatModel, vision_folder: Path, images: list[ImageFile], size: int
) -> None:
    requests = [ChoiceRequest(prompt) for prompt in mixed_prompts(images, 48)]
    together = vision.choose(requests)
    assert len(set(map(str, together))) > 40
    assert asked_in_pieces(fresh(vision_folder).choose, requests, size) == together


@pytest.mark.parametrize("size", [1, 5])
def test_texts_are_the_same_in_any_batch(
    vision: ChatModel, vision_folder: Path, images: list[ImageFile], size: int
) -> None:
    requests = [
        GenerationRequest(prompt, 6 + place % 5, propositions_schema(2) if place % 3 else None)
        for place, prompt in enumerate(mixed_prompts(images, 20))
    ]
    together = vision.generate(requests)
    assert asked_in_pieces(fresh(vision_folder).generate, requests, size) == together


def test_choices_are_those_of_a_plain_forward_pass(
    vision: ChatModel, vision_folder: Path, images: list[ImageFile]
) -> None:
    processor = transformers.AutoProcessor.from_pretrained(vision_folder)
    model = transformers.AutoModelForImageTextToText.from_pretrained(vision_folder).eval()
    yes, no = (processor.tokenizer.encode(word)[0] for word in ("Yes", "No"))
    for prompt in mixed_prompts(images, 8):
        (answer,) = vision.choose([ChoiceRequest(prompt)])
        inputs = plain_inputs(processor, prompt)
        with torch.no_grad():
            logits = model(**inputs).logits[0, -1].float()
        expected = torch.softmax(logits[[yes, no]], -1).tolist()
        assert answer == pytest.approx(expected, abs=1e-5)


def test_free_text_is_that_of_the_library_itself(
    vision: ChatModel, vision_folder: Path, images: list[ImageFile]
) -> None:
    processor = transformers.AutoProcessor.from_pretrained(vision_folder)
    model = transformers.AutoModelForImageTextToText.from_pretrained(vision_folder).eval()
    for prompt in mixed_prompts(images, 5):
        (text,) = vision.generate([GenerationRequest(prompt, 12)])
        inputs = plain_inputs(processor, prompt)
        written = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        new_tokens = written[0, inputs["input_ids"].shape[1] :]
        assert text == processor.tokenizer.decode(new_tokens, skip_special_tokens=True).strip()


def test_prompts_are_tokenised_as_the_checkpoints_own_template_does(
    vision: ChatModel, vision_folder: Path, images: list[ImageFile]
) -> None:
    processor = transformers.AutoProcessor.from_pretrained(vision_folder)
    prompts = [*mixed_prompts(images, 12), Prompt("  spaces \n kept  ", (images[0],))]
    for prompt, encoded in zip(prompts, vision._encode(prompts, [1] * 13), strict=True):
        assert not isinstance(encoded, ItemError)
        assert encoded.token_ids == plain_inputs(processor, prompt)["input_ids"][0].tolist()


def test_a_template_that_changes_the_text_is_run_in_full(tmp_path: Path, text_folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(text_folder)
    tokenizer.chat_template = "{% for m in messages %}[{{ m['content'] | trim }}]{% endfor %}"
    model = transformers.AutoModelForCausalLM.from_pretrained(text_folder)
    chat = ChatModel(model, tokenizer, None, rows=2)
    assert chat._prompts.rendered(Prompt("  red \n", system="Be brief.")) == "[Be brief.][red]"


def plain_inputs(processor: Any, prompt: Prompt) -> Any:
    content: list[dict[str, Any]] = [
        {"type": "image", "image": Image.open(image.path)} for image in prompt.images
    ]
    content.append({"type": "text", "text": prompt.text})
    messages = [{"role": "user", "content": content}]
    if prompt.system:
        system = [{"type": "text", "text": prompt.system}]
        messages.insert(0, {"role": "system", "content": system})
    return processor.apply_chat_template(
        messages,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"crop_to_patches": False},
    )


def test_json_is_valid_by_its_schema_whatever_the_weights_say(
    vision: ChatModel, text_folder: Path, images: list[ImageFile]
) -> None:
    short = {"type": "string", "minLength": 1, "maxLength": 12}
    schema = json.loads(json.dumps(IMAGE_IMAGINATION))
    schema["properties"]["caption"] = short
    schema["properties"]["existent"]["items"] = short
    schema["properties"]["nonexistent"]["items"] = short
    prompts = mixed_prompts(images, 8)
    for model in (vision, fresh(text_folder)):
        usable = [prompt for prompt in prompts if model is vision or not prompt.images]
        for text in model.generate([GenerationRequest(p, 900, schema) for p in usable]):
            assert isinstance(text, str)
            fields = json_object(text)
            assert list(fields) == ["existent", "nonexistent", "caption"]
            assert len(fields["existent"]) <= 6
            assert 1 <= len(fields["caption"]) <= 12
            assert text == json.dumps(fields, ensure_ascii=False) or "\\" in json.dumps(fields)


def test_max_tokens_bounds_the_answer(vision: ChatModel) -> None:
    short, long = vision.generate(
        [GenerationRequest(Prompt("Is it?"), tokens, propositions_schema(1)) for tokens in (3, 9)]
    )
    assert isinstance(short, str)
    assert isinstance(long, str)
    assert long.startswith(short)
    assert len(short) < len(long)


def test_broken_items_fail_alone(
    vision: ChatModel, images: list[ImageFile], tmp_path: Path
) -> None:
    broken, tiny = tmp_path / "broken.png", tmp_path / "tiny.png"
    broken.write_bytes(images[0].path.read_bytes()[:90])
    Image.new("RGB", (1, 40)).save(tiny)
    prompts = [
        Prompt("Is it?", (images[0],)),
        Prompt("Is it?", (images[0], ImageFile(broken, "1" * 64))),
        Prompt("Is it?", (ImageFile(tmp_path / "absent.png", "2" * 64),)),
        Prompt("Is it?", (ImageFile(tiny, "3" * 64),)),
        Prompt("red " * 3000),
        Prompt("red " * 100_000),
        Prompt("Is it?", (images[1],)),
    ]
    answers = vision.choose([ChoiceRequest(prompt) for prompt in prompts])
    reasons = ["decoded", "not found", "1×40", "exceed", "at most 200,000"]
    for answer, reason in zip(answers[1:-1], reasons, strict=True):
        assert isinstance(answer, ItemError)
        assert reason in str(answer)
    good = [answers[0], answers[-1]]
    assert good == vision.choose([ChoiceRequest(prompts[0]), ChoiceRequest(prompts[-1])])
    assert not any(isinstance(answer, ItemError) for answer in good)


def test_a_text_model_refuses_images(text_folder: Path, images: list[ImageFile]) -> None:
    (answer,) = fresh(text_folder).choose([ChoiceRequest(Prompt("Is it?", (images[0],)))])
    assert isinstance(answer, ItemError)


def test_three_questions_about_an_image_cost_one_pass_of_the_vision_tower(
    vision_folder: Path, images: list[ImageFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fresh(vision_folder)
    passes: list[int] = []
    inner = model._model.get_image_features

    def counted(pixel_values: torch.Tensor) -> Any:
        passes.append(len(pixel_values))
        return inner(pixel_values=pixel_values)

    monkeypatch.setattr(model._model, "get_image_features", counted)
    for question in ("Is it red?", "Is it blue?", "Is it round?"):
        model.choose([ChoiceRequest(Prompt(question, (image,))) for image in images])
    assert passes == [ROWS, ROWS]


def test_choices_that_begin_alike_are_refused(vision: ChatModel) -> None:
    with pytest.raises(ConfigurationError, match="first tokens"):
        vision.choose([ChoiceRequest(Prompt("Is it?"), ("Yes", "Yesterday"))])


def test_an_unknown_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="empty"):
        load(str(tmp_path / "empty"))


def test_other_weights_have_another_identity(vision: ChatModel, text_folder: Path) -> None:
    assert vision.describe()["digest"] != fresh(text_folder).describe()["digest"]
    assert fresh(text_folder).describe() == fresh(text_folder).describe()
