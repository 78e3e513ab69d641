"""Measures the demo's text checkpoint on held-out scenes, by the engine and words of the agents."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from agents.backends.contract import ChoiceRequest, GenerationRequest, LanguageModel
from agents.backends.transformers import load
from agents.imagination.parsing import text_imagination
from agents.imagination.schemas import TEXT_IMAGINATION
from agents.prompting import PromptSet, load_prompts
from agents.question.parsing import propositions as parse_propositions
from agents.question.schemas import propositions_schema
from agents.skill_prompts import imagine_text_prompt, propose_prompt, verify_caption_prompt
from agents.training.text import message_edits
from shared.contracts.skills import TextImagined
from shared.demo_world.image_edits import existent, nonexistent
from shared.demo_world.language import attribute_counts, caption, f1_of_counts
from shared.demo_world.modification import Modification, modify, realise
from shared.demo_world.propositions import ask, random_question
from shared.demo_world.scene import Scene
from shared.demo_world.splits import evaluation_rng, held_out_scene
from shared.errors import ItemError

QUESTIONS = 3


def held_out_changes(count: int) -> Iterator[tuple[Scene, Modification, Scene]]:
    """(reference, modification, a target), the references held out of training."""
    for index in range(count):
        rng = evaluation_rng("measure", index)
        reference = held_out_scene(rng)
        modification = modify(reference, rng)
        yield reference, modification, realise(modification.target, rng)


def measure_imagination(model: LanguageModel, prompts: PromptSet, count: int) -> dict[str, float]:
    """Attribute F1 of the comprehensive target caption, by number of edits; share of valid JSON."""
    changes = list(held_out_changes(count))
    answers = model.generate(
        [
            GenerationRequest(
                imagine_text_prompt(prompts, modification.text, caption(reference)),
                prompts["imagine_text"].max_tokens,
                TEXT_IMAGINATION,
            )
            for reference, modification, _ in changes
        ]
    )
    totals: dict[str, list[int]] = {}
    valid = exact = 0
    for (_, modification, _), answer in zip(changes, answers, strict=True):
        imagined = _parsed(answer, modification.text)
        valid += imagined.parsed and _is_json(answer)
        written = imagined.captions[-1] if imagined.parsed else ""
        exact += written == modification.comprehensive
        for key in ("all", f"{modification.level} edits"):
            counts = attribute_counts(written, modification.comprehensive)
            totals.setdefault(key, [0, 0, 0])
            totals[key] = [old + new for old, new in zip(totals[key], counts, strict=True)]
    measured = {
        f"imagine_text: target caption attribute F1, {key}": f1_of_counts(*counts)
        for key, counts in sorted(totals.items())
    }
    measured["imagine_text: target caption exact"] = exact / count
    measured["imagine_text: JSON valid"] = valid / count
    return measured


def measure_propositions(model: LanguageModel, prompts: PromptSet, count: int) -> dict[str, float]:
    """Share of propositions whose expected answer is the true one for a target, from true edits.

    A question outside the canonical wording, of which nobody can say whether it is right, counts
    as wrong.
    """
    changes = list(held_out_changes(count))
    answers = model.generate(
        [
            GenerationRequest(
                propose_prompt(
                    prompts,
                    modification.text,
                    message_edits(modification),
                    existent(modification),
                    nonexistent(modification),
                ),
                prompts["propose"].max_tokens,
                propositions_schema(QUESTIONS),
            )
            for _, modification, _ in changes
        ]
    )
    right = asked = valid = 0
    for (_, _, target), answer in zip(changes, answers, strict=True):
        valid += _is_json(answer)
        proposed = () if isinstance(answer, ItemError) else (
            parse_propositions(answer, QUESTIONS).propositions
        )  # fmt: skip
        asked += max(1, len(proposed))
        for proposition in proposed:
            try:
                right += ask(proposition.question, target) == proposition.expected
            except ValueError:
                continue
    return {"propose: propositions right": right / asked, "propose: JSON valid": valid / count}


def measure_caption_checks(
    model: LanguageModel, prompts: PromptSet, count: int
) -> dict[str, float]:
    """Accuracy of Yes/No on captions of held-out scenes, half of the true answers being Yes."""
    requests, truths = [], []
    for index in range(count):
        rng = evaluation_rng("measure/questions", index)
        scene = held_out_scene(rng)
        question, truth = random_question(scene, rng)
        requests.append(ChoiceRequest(verify_caption_prompt(prompts, question, caption(scene))))
        truths.append(truth)
    answers = model.choose(requests)
    right = sum(
        not isinstance(answer, ItemError) and (answer[0] > 0.5) == truth
        for answer, truth in zip(answers, truths, strict=True)
    )
    return {"verify_caption: accuracy": right / count}


def measure(checkpoint: Path, count: int) -> dict[str, float]:
    """Every figure of the text checkpoint; each in 0..1."""
    model = load(str(checkpoint), device="cpu", dtype="float32", threads=1)
    prompts = load_prompts("compact")
    return {
        **measure_imagination(model, prompts, count),
        **measure_propositions(model, prompts, count),
        **measure_caption_checks(model, prompts, 4 * count),
    }


def _parsed(answer: str | ItemError, modification_text: str) -> TextImagined:
    return text_imagination("" if isinstance(answer, ItemError) else answer, modification_text)


def _is_json(answer: str | ItemError) -> bool:
    try:
        return not isinstance(answer, ItemError) and isinstance(json.loads(answer), dict)
    except ValueError:
        return False


def main() -> None:
    """Command line: prints one figure a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--count", type=int, default=300, help="held-out changes measured")
    arguments = parser.parse_args()
    for name, value in measure(arguments.checkpoint, arguments.count).items():
        print(f"{name:58s} {value:.3f}")


if __name__ == "__main__":
    main()
