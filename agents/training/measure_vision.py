"""Measures the demo's vision checkpoint on held-out scenes, the way the agents use it."""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from agents.backends.contract import (
    ChoiceRequest,
    GenerationRequest,
    ImageFile,
    LanguageModel,
    Prompt,
)
from agents.backends.transformers import load
from agents.imagination.parsing import image_imagination
from agents.imagination.schemas import IMAGE_IMAGINATION
from agents.prompting import PromptSet, load_prompts
from agents.skill_prompts import (
    caption_prompt,
    compare_prompt,
    imagine_image_prompt,
    verify_image_prompt,
)
from shared.demo_world.language import attribute_counts, caption, f1_of_counts
from shared.demo_world.modification import Modification, modify, realise
from shared.demo_world.near_misses import distractors
from shared.demo_world.propositions import ask, propositions, random_question
from shared.demo_world.render import render
from shared.demo_world.scene import Scene
from shared.demo_world.splits import evaluation_rng, held_out_scene, stream_seed
from shared.errors import ItemError


class Pictures:
    """Renders scenes into files of a folder; the same scene of a stream gives the same file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, scene: Scene) -> ImageFile:
        seed = stream_seed("measure/picture", caption(scene))
        path = self._folder / f"{seed}.png"
        if not path.exists():
            Image.fromarray(render(scene, np.random.default_rng(seed))).save(path)
        return ImageFile(path, hashlib.sha256(path.read_bytes()).hexdigest())


def held_out_change(stream: str, index: int) -> tuple[Scene, Modification, Scene, Scene]:
    """(reference, modification, a target, a near miss of it), the reference held out."""
    rng = evaluation_rng(stream, index)
    while True:
        reference = held_out_scene(rng)
        modification = modify(reference, rng)
        target = realise(modification.target, rng)
        near = distractors(reference, modification, target, 2, rng)
        if near:
            return reference, modification, target, rng.choice(near)


def measure_captions(
    model: LanguageModel, prompts: PromptSet, picture: Callable[[Scene], ImageFile], count: int
) -> dict[str, float]:
    """Attribute F1 over all captions, and the share that is right word for word."""
    scenes = [held_out_scene(evaluation_rng("measure/captions", i)) for i in range(count)]
    bound = prompts["caption"].max_tokens
    answers = model.generate(
        [GenerationRequest(caption_prompt(prompts, picture(scene)), bound) for scene in scenes]
    )
    texts = ["" if isinstance(answer, ItemError) else answer.strip() for answer in answers]
    truths = [caption(scene) for scene in scenes]
    exact = sum(text == truth for text, truth in zip(texts, truths, strict=True))
    return {
        "caption: attribute F1": _f1(texts, truths),
        "caption: word for word": exact / count,
    }


def measure_imagination(
    model: LanguageModel, prompts: PromptSet, picture: Callable[[Scene], ImageFile], count: int
) -> dict[str, float]:
    """Attribute F1 of the target captions, whole and by number of edits; share of valid JSON."""
    changes = [held_out_change("measure/imagine", index) for index in range(count)]
    answers = model.generate(
        [
            GenerationRequest(
                imagine_image_prompt(prompts, modification.text, picture(reference)),
                prompts["imagine_image"].max_tokens,
                IMAGE_IMAGINATION,
            )
            for reference, modification, _, _ in changes
        ]
    )
    texts, valid = [], 0
    for (_, modification, _, _), answer in zip(changes, answers, strict=True):
        raw = "" if isinstance(answer, ItemError) else answer
        imagined = image_imagination(raw, modification.text)
        valid += imagined.parsed and _is_json(raw)
        texts.append(imagined.caption if imagined.parsed else "")
    truths = [modification.comprehensive for _, modification, _, _ in changes]
    exact = sum(text == truth for text, truth in zip(texts, truths, strict=True))
    measured = {"imagine_image: target attribute F1": _f1(texts, truths)}
    for level in (1, 2, 3):
        chosen = [i for i, (_, change, _, _) in enumerate(changes) if change.level == level]
        measured[f"imagine_image: target attribute F1, {level} edits"] = _f1(
            [texts[i] for i in chosen], [truths[i] for i in chosen]
        )
    measured["imagine_image: target word for word"] = exact / count
    measured["imagine_image: JSON valid"] = valid / count
    return measured


def measure_questions(
    model: LanguageModel, prompts: PromptSet, picture: Callable[[Scene], ImageFile], count: int
) -> dict[str, float]:
    """Accuracy on random questions, half of them true, and on propositions of changes.

    The propositions are asked of targets and of their near misses.
    """
    asked: list[tuple[Scene, str]] = []
    for index in range(count):
        rng = evaluation_rng("measure/questions", index)
        scene = held_out_scene(rng)
        asked.append((scene, random_question(scene, rng, index % 2 == 0)[0]))
    measured = {"verify_image: random questions": _accuracy(model, prompts, picture, asked)}
    targets, near_misses = [], []
    for index in range(count // 3):
        _, modification, target, near = held_out_change("measure/propositions", index)
        for question, _ in propositions(modification):
            targets.append((target, question))
            near_misses.append((near, question))
    measured["verify_image: propositions on targets"] = _accuracy(model, prompts, picture, targets)
    measured["verify_image: propositions on near misses"] = _accuracy(
        model, prompts, picture, near_misses
    )
    return measured


def measure_comparisons(
    model: LanguageModel, prompts: PromptSet, picture: Callable[[Scene], ImageFile], count: int
) -> dict[str, float]:
    """Accuracy of Yes on targets and of No on near misses, as many of these as of those."""
    requests, truths = [], []
    for index in range(count):
        reference, modification, target, near = held_out_change("measure/compare", index)
        candidate = target if index % 2 == 0 else near
        prompt = compare_prompt(prompts, picture(reference), picture(candidate), modification.text)
        requests.append(prompt)
        truths.append(modification.target.satisfied_by(candidate))
    yes = _yes(model, requests)
    right = [answer == truth for answer, truth in zip(yes, truths, strict=True)]
    return {
        "compare: accuracy": sum(right) / count,
        "compare: accuracy on targets": sum(right[::2]) / len(right[::2]),
    }


def measure(checkpoint: Path, count: int) -> dict[str, float]:
    """Every figure of the vision checkpoint, each in 0..1; questions are counted threefold."""
    model = load(str(checkpoint), device="cpu", dtype="float32")
    prompts = load_prompts("compact")
    measured: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        picture = Pictures(Path(folder))
        measured |= measure_captions(model, prompts, picture, count)
        measured |= measure_questions(model, prompts, picture, 3 * count)
        measured |= measure_imagination(model, prompts, picture, count)
        measured |= measure_comparisons(model, prompts, picture, 2 * count)
    return measured


def _accuracy(
    model: LanguageModel, prompts: PromptSet, picture: Callable[[Scene], ImageFile],
    asked: Sequence[tuple[Scene, str]],
) -> float:  # fmt: skip
    yes = _yes(
        model,
        [verify_image_prompt(prompts, picture(scene), question) for scene, question in asked],
    )
    right = sum(
        answer == ask(question, scene) for answer, (scene, question) in zip(yes, asked, strict=True)
    )
    return right / len(asked)


def _yes(model: LanguageModel, prompts: Sequence[Prompt]) -> list[bool | None]:
    """True where Yes is likelier than No; None, never right, where the model failed."""
    answers = model.choose([ChoiceRequest(prompt) for prompt in prompts])
    return [None if isinstance(answer, ItemError) else answer[0] > 0.5 for answer in answers]


def _f1(texts: Sequence[str], truths: Sequence[str]) -> float:
    counts = [attribute_counts(text, truth) for text, truth in zip(texts, truths, strict=True)]
    hits, wrong, missed = (sum(column) for column in zip(*counts, strict=True))
    return f1_of_counts(hits, wrong, missed)


def _is_json(answer: str) -> bool:
    try:
        return isinstance(json.loads(answer), dict)
    except ValueError:
        return False


def main() -> None:
    """Command line: prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--count", type=int, default=300, help="scenes, changes; questions: thrice")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    started_s = time.monotonic()
    for name, value in measure(options.checkpoint, options.count).items():
        print(f"{name:46} {value:.3f}")
    print(f"{'seconds':46} {time.monotonic() - started_s:.0f}")


if __name__ == "__main__":
    main()
