"""Trains the demo's text checkpoint: imagining from captions, proposing, checking captions."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from agents.prompting import PromptSet, load_prompts
from agents.skill_prompts import imagine_text_prompt, propose_prompt, verify_caption_prompt
from agents.training.optimisation import IGNORED, MixedOptimiser, ProgressLog, pad_right
from agents.training.vocabulary import ASSISTANT, END, USER, demo_tokenizer
from shared.contracts.skills import Edit, EditKind
from shared.demo_world.image_edits import existent, nonexistent
from shared.demo_world.language import caption, parse_phrase
from shared.demo_world.modification import Modification
from shared.demo_world.propositions import ask, propositions, random_question
from shared.demo_world.scene import BACKGROUNDS, SLOT_VALUES, SLOTS, Group, Scene
from shared.demo_world.splits import training_rng, training_scene, training_triplet

GROUP_TOKENS = 8
"""A complete group's phrase is seven tokens in a caption, and a comma follows."""
OPERATIONS = 3
"""What a change does to a group: keeps it, changes it, removes it."""
SLOT_CLASSES = [len(SLOT_VALUES[slot]) + 1 for slot in SLOTS]


@dataclass
class Example:
    """Token ids of prompt and answer, and what is known about single positions on the way.

    Attributes:
        fates: (position, operation, class of each slot in the target) of each described group.
        backgrounds: (position, class of the target's background).
        hits: (position, 1 if the group described before it matches the question else 0).
    """

    prompt: list[int]
    answer: list[int]
    fates: list[tuple[int, int, list[int]]] = field(default_factory=list)
    backgrounds: list[tuple[int, int]] = field(default_factory=list)
    hits: list[tuple[int, int]] = field(default_factory=list)


class TextExamples:
    """Draws training examples of the three text skills, word for word as the agents ask them."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, prompts: PromptSet, stream: str) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._prompts, self._stream, self._index = prompts, stream, 0

    def _rng(self) -> random.Random:
        self._index += 1
        return training_rng(self._stream, self._index)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._backend.encode(text).ids
        return ids

    def _encode(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        return self._ids(f"{USER}{prompt}{ASSISTANT}"), self._ids(f"{answer}{END}")

    def _group_ends(self, prompt_before: str, scene: Scene) -> list[int]:
        start = len(self._ids(f"{USER}{prompt_before}"))
        return [start + GROUP_TOKENS * index + 6 for index in range(len(scene.groups))]

    def imagine(self, most_groups: int) -> Example:
        """Edits and target captions from a reference's caption and a change."""
        rng = self._rng()
        while True:
            reference, modification, _ = training_triplet(rng)
            if len(reference.groups) <= most_groups:
                break
        text = imagine_text_prompt(self._prompts, modification.text, caption(reference)).text
        prompt, answer = self._encode(text, imagination_json(modification))
        example = Example(prompt, answer)
        ends = self._group_ends(text[: text.rindex(" " + caption(reference))], reference)
        fate_of = {edit.subject: edit for edit in modification.edits if edit.kind != "add"}
        for end, group in zip(ends, reference.groups, strict=True):
            example.fates.append((end, *_fate(group, fate_of)))
        background = modification.target.background or reference.background
        example.backgrounds.append((ends[-1] + 3, BACKGROUNDS.index(background)))
        return example

    def propose(self) -> Example:
        """Questions from the edits."""
        _, modification, _ = training_triplet(self._rng())
        edits = message_edits(modification)
        text = propose_prompt(
            self._prompts, modification.text, edits, existent(modification),
            nonexistent(modification),
        ).text  # fmt: skip
        return Example(*self._encode(text, propositions_json(modification)))

    def verify(self, most_groups: int) -> Example:
        """Yes or No from a caption: random questions, or propositions of a change."""
        rng = self._rng()
        if rng.random() < 0.3:
            reference, modification, target = training_triplet(rng)
            scene = target if rng.random() < 0.5 else reference
            question, _ = rng.choice(propositions(modification) or (("", True),))
            if not question:
                question, _ = random_question(scene, rng)
        else:
            scene = training_scene(rng, rng.randint(1, most_groups))
            question, _ = random_question(scene, rng)
        text = verify_caption_prompt(self._prompts, question, caption(scene)).text
        example = Example(*self._encode(text, "Yes" if ask(question, scene) else "No"))
        if "background" not in question:
            ends = self._group_ends(text[: text.rindex(" " + caption(scene))], scene)
            example.hits = [
                (end, int(ask(question, Scene((group,), scene.background))))
                for end, group in zip(ends, scene.groups, strict=True)
            ]
        return example


def message_edits(modification: Modification) -> list[Edit]:
    """The edits of a modification as messages carry them."""
    return [
        Edit(cast(EditKind, edit.kind), edit.subject, edit.change) for edit in modification.edits
    ]


def imagination_json(modification: Modification) -> str:
    """The answer taught for imagine_text."""
    return json.dumps(
        {
            "edits": [
                {"kind": edit.kind, "subject": edit.subject, "change": edit.change}
                for edit in modification.edits
            ],
            "core": modification.core,
            "enhanced": modification.enhanced,
            "comprehensive": modification.comprehensive,
        }
    )


def propositions_json(modification: Modification) -> str:
    """The answer taught for propose."""
    return json.dumps(
        {
            "propositions": [
                {"question": question, "expected": "yes" if expected else "no"}
                for question, expected in propositions(modification)
            ]
        }
    )


def _fate(group: Group, fate_of: Mapping[str, object]) -> tuple[int, list[int]]:
    for subject, edit in fate_of.items():
        try:
            same = parse_phrase(subject) == group
        except ValueError:
            continue
        if not same:
            continue
        change = getattr(edit, "change", "same")
        if change == "gone":
            return 2, [IGNORED] * len(SLOTS)
        if change != "same":
            return 1, _slot_classes(parse_phrase(change))
    return 0, _slot_classes(group)


def _slot_classes(group: Group) -> list[int]:
    return [
        0 if (value := group.get(slot)) is None else 1 + SLOT_VALUES[slot].index(value)
        for slot in SLOTS
    ]


class Guidance(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """Linear read-outs of hidden states, used while training and then thrown away.

    They ask every described group at its last token what becomes of it (imagining) or whether it
    matches the question (checking). A token then carries a lesson of its own, where the answer
    alone would teach one bit per example.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, OPERATIONS + sum(SLOT_CLASSES) + len(BACKGROUNDS) + 2)

    def loss(self, hidden: Tensor, examples: list[Example]) -> Tensor:
        """hidden: float (rows, length, width)."""
        sizes = [OPERATIONS, *SLOT_CLASSES, len(BACKGROUNDS), 2]
        places: list[tuple[int, int]] = []
        labels: list[list[int]] = []
        for row, example in enumerate(examples):
            for position, operation, slots in example.fates:
                places.append((row, position))
                labels.append([operation, *slots, IGNORED, IGNORED])
            for position, background in example.backgrounds:
                places.append((row, position))
                labels.append([IGNORED] * (len(SLOTS) + 1) + [background, IGNORED])
            for position, hit in example.hits:
                places.append((row, position))
                labels.append([IGNORED] * (len(SLOTS) + 2) + [hit])
        if not places:
            return hidden.sum() * 0.0
        rows, positions = (torch.tensor(axis) for axis in zip(*places, strict=True))
        outputs = self.head(hidden[rows, positions].float()).split(sizes, -1)
        wanted = torch.tensor(labels)
        total = hidden.sum() * 0.0
        for output, column in zip(outputs, wanted.T, strict=True):
            if (column != IGNORED).any():
                total = total + nn.functional.cross_entropy(output, column, ignore_index=IGNORED)
        return total


def build_model(tokenizer: PreTrainedTokenizerFast, width: int, layers: int) -> Qwen2ForCausalLM:
    """A Qwen2 causal LM with heads of 32, untied embeddings."""
    config = Qwen2Config(
        vocab_size=(len(tokenizer) + 63) // 64 * 64, hidden_size=width,
        intermediate_size=width * 3, num_hidden_layers=layers, num_attention_heads=width // 32,
        num_key_value_heads=width // 32, max_position_embeddings=2048, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0}, initializer_range=0.05,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None, attn_implementation="float32_in_autocast",
    )  # fmt: skip
    return Qwen2ForCausalLM(config)


def batch_loss(
    model: Qwen2ForCausalLM, guidance: Guidance, examples: list[Example]
) -> tuple[Tensor, Tensor]:
    """(loss of the answer tokens, loss of the guidance), each a scalar."""
    inputs = pad_right([example.prompt + example.answer for example in examples], 0)
    labels = pad_right(
        [[IGNORED] * len(example.prompt) + example.answer for example in examples], IGNORED
    )
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=inputs).last_hidden_state
        learnt = labels[:, 1:] != IGNORED
        logits = model.lm_head(hidden[:, :-1][learnt])
    answer_loss = nn.functional.cross_entropy(logits.float(), labels[:, 1:][learnt])
    return answer_loss, guidance.loss(hidden, examples)


def train(arguments: argparse.Namespace) -> None:
    """Train and write the checkpoint folder; prints losses as it goes."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    tokenizer = demo_tokenizer()
    examples = TextExamples(tokenizer, load_prompts("compact"), f"text/{arguments.seed}")
    model = build_model(tokenizer, arguments.width, arguments.layers).train()
    if arguments.start:
        model = Qwen2ForCausalLM.from_pretrained(
            arguments.start, dtype=torch.float32, attn_implementation="float32_in_autocast"
        ).train()
        examples._index = arguments.start_index
    guidance = Guidance(arguments.width)
    print(f"parameters {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M", flush=True)
    parameters = [*model.named_parameters(), *guidance.named_parameters()]
    optimiser = MixedOptimiser(parameters, arguments.rate, arguments.steps, arguments.decay_from)
    log = ProgressLog("text")
    size = arguments.rows
    for step in range(arguments.steps):
        done = step / arguments.steps
        most_groups = 4 if arguments.start or done > 0.15 else 2 if done < 0.07 else 3
        drawn = sorted(
            [examples.imagine(most_groups) for _ in range(size)],
            key=lambda one: len(one.prompt) + len(one.answer),
        )
        values = {"imagine": 0.0, "fate": 0.0}
        for half in (drawn[: size // 2], drawn[size // 2 :]):
            loss, guide = batch_loss(model, guidance, half)
            (0.5 * (loss + arguments.guidance * guide)).backward()
            values["imagine"] += loss.item() / 2
            values["fate"] += guide.item() / 2
        verified = [examples.verify(most_groups) for _ in range(arguments.verify_rows)]
        loss, guide = batch_loss(model, guidance, verified)
        (arguments.verify_weight * (loss + guide)).backward()
        values |= {"verify": loss.item(), "hit": guide.item()}
        if step % 2 == 0:
            loss, _ = batch_loss(model, guidance, [examples.propose() for _ in range(size // 4)])
            (0.5 * loss).backward()
            values["propose"] = 2 * loss.item()
        optimiser.step()
        if log.add(step, arguments.steps, values) and arguments.out:
            save(model, tokenizer, arguments.out)


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the folder that transformers and vllm load; weights as bfloat16.

    It is written as a Llama, which computes the same: whatever a folder of type qwen2 says, the
    library loads Qwen's own word splitting for it. (The vision checkpoint has the type internvl,
    for which its own tokenizer is used, and shares these weights.)
    """
    config = model.config
    exported = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size, hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            max_position_embeddings=config.max_position_embeddings,
            rms_norm_eps=config.rms_norm_eps, rope_parameters=config.rope_parameters,
            attention_bias=True, tie_word_embeddings=False, bos_token_id=None,
            pad_token_id=config.pad_token_id, eos_token_id=config.eos_token_id,
        )
    )  # fmt: skip
    weights = dict(model.state_dict())
    for layer in range(config.num_hidden_layers):  # Llama's fourth bias, which Qwen2 lacks
        weights[f"model.layers.{layer}.self_attn.o_proj.bias"] = torch.zeros(config.hidden_size)
    exported.load_state_dict(weights)
    exported.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    exported.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--verify-rows", type=int, default=48)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--decay-from", type=float, default=0.5)
    parser.add_argument("--guidance", type=float, default=0.3)
    parser.add_argument("--verify-weight", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=Path, default=None)
    parser.add_argument("--start-index", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
