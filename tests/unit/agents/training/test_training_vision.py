"""The training of the demo's vision checkpoint."""

from __future__ import annotations

import hashlib
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from agents.backends.contract import ChoiceRequest, ImageFile
from agents.backends.transformers import load
from agents.prompting import load_prompts
from agents.skill_prompts import verify_image_prompt
from agents.training.optimisation import IGNORED
from agents.training.vision import Trainer
from agents.training.vision_examples import (
    CAPTION,
    CHANGED,
    EMPTY,
    GONE,
    KEPT,
    NEW,
    VERIFY,
    Example,
    VisionExamples,
    cell_agreement,
    cell_differences,
    cell_fates,
)
from agents.training.vision_model import (
    build_processor,
    collate,
    hidden_states,
    image_features,
    pixel_values,
)
from agents.training.vocabulary import ASSISTANT
from shared.demo_world.language import parse_phrase
from shared.demo_world.scene import POSITIONS, Group, Scene, TargetSpec

STAR = Group(1, "small", "plain", "red", "star", "top-left")
DISC = Group(2, "large", "dotted", "blue", "circle", "center")
HEART = Group(3, "small", "striped", "green", "heart", "bottom")
TINY = Namespace(width=32, layers=3, vision_width=32, vision_layers=1, seed=1, start_index=0)


@pytest.fixture(scope="module")
def examples(tokenizer: PreTrainedTokenizerFast) -> list[Example]:
    drawn = VisionExamples(tokenizer, load_prompts("compact"), "test")
    return [drawn.reference(3, 1.0), drawn.candidate(4, 1.0), drawn.compared()]


@pytest.fixture
def trainer(tokenizer: PreTrainedTokenizerFast) -> Trainer:
    torch.manual_seed(0)
    return Trainer(TINY, tokenizer)


def test_tokens_and_pixels_in_training_are_those_of_the_processor(
    tokenizer: PreTrainedTokenizerFast, examples: list[Example]
) -> None:
    processor = build_processor(tokenizer)
    for example in examples:
        for turn in example.turns:
            text = tokenizer.decode(turn.prompt).removesuffix(ASSISTANT)
            content = [{"type": "image"}] * len(example.images) + [{"type": "text", "text": text}]
            rendered = processor.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
            )
            inputs = processor(
                images=[Image.fromarray(image) for image in example.images], text=rendered,
                return_tensors="pt", crop_to_patches=False,
            )  # fmt: skip
            assert inputs["input_ids"][0].tolist() == example.opening + turn.prompt
            wanted = inputs["pixel_values"]
            assert torch.allclose(wanted, pixel_values(example.images), atol=1e-5)


def test_a_turn_sees_its_pictures_and_itself_alone(
    trainer: Trainer, examples: list[Example]
) -> None:
    model = trainer.model.eval()
    batch = collate(examples[:2])
    with torch.no_grad():
        pixels = pixel_values([example.images[0] for example in examples[:2]])
        packed = hidden_states(model, batch, image_features(model, pixels))[-1]
        for row, example in enumerate(examples[:2]):
            start = len(example.opening)
            for turn in example.turns:
                alone = example.opening + turn.prompt + turn.answer[:-1]
                length = len(alone) - len(example.opening)
                states = model.model(
                    input_ids=torch.tensor([alone]), pixel_values=pixel_values(example.images)
                ).last_hidden_state
                own = packed[row, start : start + length]
                assert torch.allclose(own, states[0, len(example.opening) :], atol=1e-4)
                start += length


def test_fates_tell_what_a_change_does_to_each_cell() -> None:
    reference = Scene((STAR, DISC), "white")
    target = TargetSpec((STAR.with_value("colour", "green"), HEART), "pink")
    fates = cell_fates(reference, target)
    assert fates[0] == CHANGED
    assert fates[4] == GONE
    assert fates[7] == NEW
    assert fates[8] == EMPTY
    assert fates[9] == 3
    assert cell_fates(reference, TargetSpec((STAR,), None))[0] == KEPT


def test_agreement_compares_a_candidate_with_the_target_cell_by_cell() -> None:
    target = TargetSpec((STAR, DISC.with_value("size", None)), "white")
    assert cell_agreement(target, Scene((STAR, DISC), "white")) == [1] * 10
    wrong = Scene((STAR.with_value("count", 3), DISC, HEART), "pink")
    assert cell_agreement(target, wrong) == [0, 1, 1, 1, 1, 1, 1, 0, 1, 0]
    placeless = TargetSpec((STAR, HEART.with_value("position", None)), "white")
    assert cell_agreement(placeless, Scene((STAR, HEART), "white"))[7] == IGNORED


def test_differences_name_the_slots_that_differ_and_what_appeared() -> None:
    rows = cell_differences(
        Scene((STAR, DISC), "white"), Scene((STAR.with_value("colour", "blue"), HEART), "white")
    )
    assert rows[0] == [0, 0, 0, 0, 1, 0]
    assert rows[4] == [1, *[IGNORED] * 5]
    assert rows[7] == [1, *[IGNORED] * 5]
    assert rows[8] == [0, *[IGNORED] * 5]


def test_each_token_of_a_described_group_points_to_its_cell(
    tokenizer: PreTrainedTokenizerFast, examples: list[Example]
) -> None:
    example = examples[0]
    (turn,) = [turn for turn in example.turns if turn.skill == CAPTION]
    tokens = turn.prompt + turn.answer
    described: dict[int, list[int]] = {}
    for position, cell in turn.pointers:
        described.setdefault(cell, []).append(tokens[position + 1])
    groups = [parse_phrase(tokenizer.decode(ids).strip()) for ids in described.values()]
    assert tuple(groups) == example.scenes[0].groups
    assert [POSITIONS[cell] for cell in described] == [group.position for group in groups]


def test_the_words_of_a_question_intersect_to_its_matches(examples: list[Example]) -> None:
    turns = [turn for example in examples for turn in example.turns if turn.skill == VERIFY]
    known = [turn for turn in turns if turn.words]
    assert known
    for turn in known:
        cells = [all(marks) for marks in zip(*(cells for _, cells in turn.words), strict=True)]
        assert [int(cell) for cell in cells] == turn.matches


def test_training_learns_a_few_examples_and_the_checkpoint_answers_through_the_backend(
    trainer: Trainer, examples: list[Example], tmp_path: Path
) -> None:
    optimiser = torch.optim.Adam([value for _, value in trainer.parameters()], 3e-3)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        loss, values = trainer.answer(examples)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    guided = {"word?", "differ?", "pointer?", "match?", "fate?", "agree?"}
    assert {"caption", "verify", "imagine", "compare"} | guided <= set(values)

    trainer.save(tmp_path / "vision")
    path = tmp_path / "scene.png"
    Image.fromarray(examples[0].images[0]).save(path)
    image = ImageFile(path, hashlib.sha256(path.read_bytes()).hexdigest())
    prompt = verify_image_prompt(load_prompts("compact"), image, "Is the background white?")
    model = load(str(tmp_path / "vision"), device="cpu")
    (answer,) = model.choose([ChoiceRequest(prompt)])
    assert isinstance(answer, tuple) and sum(answer) == pytest.approx(1)

    again = Trainer(TINY, trainer.tokenizer)
    again.load(tmp_path / "vision")
    with torch.no_grad():
        assert again.answer(examples)[0].item() == pytest.approx(
            trainer.answer(examples)[0].item(), rel=0.05
        )
