"""Trains the demo's vision checkpoint: describing, checking, imagining and comparing pictures.

First the vision tower learns to name what is in each cell, then everything learns the four skills
together, with read-outs of the hidden states as guidance.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast, Qwen2ForCausalLM

from agents.prompting import load_prompts
from agents.training.optimisation import IGNORED, MixedOptimiser, ProgressLog
from agents.training.scene_labels import SceneReadout, scene_labels
from agents.training.vision_examples import SKILL_NAMES, Example, VisionExamples
from agents.training.vision_guidance import VisionGuidance
from agents.training.vision_model import (
    build_model,
    collate,
    hidden_states,
    image_features,
    pixel_values,
    save,
)
from agents.training.vocabulary import demo_tokenizer

GUIDANCE_WEIGHTS: Final = {
    "word": 2.0, "match": 4.0, "fate": 2.0, "agree": 2.0, "differ": 2.0,
    "pointer": 0.5,
}  # fmt: skip
"""Most of these losses are means over the nine cells."""
SKILL_WEIGHTS: Final = {"caption": 0.5, "verify": 2.0, "imagine": 1.0, "compare": 1.0}
"""The losses of yes and no are means over the answer and its end."""
_READOUT_WEIGHT: Final = 0.3


class Trainer:
    """The model, the read-outs that guide it, and the stream of examples."""

    def __init__(self, arguments: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.model = build_model(
            tokenizer, arguments.width, arguments.layers, arguments.vision_width,
            arguments.vision_layers,
        ).train()  # fmt: skip
        self.readout = SceneReadout(arguments.width, cells_apart=True)
        self.guidance = VisionGuidance(arguments.width, arguments.layers)
        self.examples = VisionExamples(
            tokenizer, load_prompts("compact"), f"vision/{arguments.seed}", arguments.start_index
        )

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        """All that is learnt, by name."""
        modules = (self.model, self.readout, self.guidance)
        return [pair for module in modules for pair in module.named_parameters()]

    def see(self, rows: int) -> tuple[Tensor, dict[str, float]]:
        """Loss of naming what is in each cell, and how often which attribute was right."""
        examples = [self.examples.pictured() for _ in range(rows)]
        with torch.autocast("cpu", torch.bfloat16):
            features = image_features(self.model, pixel_values([e.images[0] for e in examples]))
        loss, shares = self.readout.loss_and_accuracies(features.float(), _labels(examples))
        names = ("present", "count", "size", "texture", "colour", "shape", "background")
        return loss, {"loss": loss.item(), **dict(zip(names, shares, strict=True))}

    def answer(self, examples: list[Example]) -> tuple[Tensor, dict[str, float]]:
        """Weighted loss of the answers and all guidance; the single losses by name."""
        batch = collate(examples)
        images = [image for example in examples for image in example.images]
        learnt = batch.labels != IGNORED
        with torch.autocast("cpu", torch.bfloat16):
            features = image_features(self.model, pixel_values(images))
            states = hidden_states(self.model, batch, features)
            logits = self.model.lm_head(states[-1][learnt])
        losses = nn.functional.cross_entropy(logits.float(), batch.labels[learnt], reduction="none")
        read = self.readout.loss(features.float(), _labels(examples))
        total, values = _READOUT_WEIGHT * read, {"read": read.item()}
        skills = batch.skills[learnt]
        for index, name in enumerate(SKILL_NAMES):
            if (skills == index).any():
                loss = losses[skills == index].mean()
                total = total + SKILL_WEIGHTS[name] * loss
                values[name] = loss.item()
        for name, loss in self.guidance.losses(states, examples).items():
            total = total + GUIDANCE_WEIGHTS[name] * loss
            values[f"{name}?"] = loss.item()
        return total, values

    def save(self, folder: Path) -> None:
        """The checkpoint, and beside it what only a later training needs."""
        save(self.model, self.tokenizer, folder)
        save_file(
            {**_named("readout", self.readout), **_named("guidance", self.guidance)},
            folder.with_name(f"{folder.name}-guidance.safetensors"),
        )

    def load(self, folder: Path) -> None:
        """Continue from what `save` wrote."""
        loaded = InternVLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self.model.load_state_dict(loaded.state_dict())
        heads = load_file(folder.with_name(f"{folder.name}-guidance.safetensors"))
        for prefix, module in (("readout", self.readout), ("guidance", self.guidance)):
            known = {name: heads.get(f"{prefix}.{name}") for name in module.state_dict()}
            module.load_state_dict(
                {name: value for name, value in known.items() if value is not None}, strict=False
            )

    def load_language_model(self, folder: Path) -> None:
        """Start the language model from the text checkpoint, which has the same tokenizer."""
        text = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model.model.language_model.load_state_dict(text.model.state_dict())
        self.model.lm_head.load_state_dict(text.lm_head.state_dict())


def _named(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value for name, value in module.state_dict().items()}


def _labels(examples: list[Example]) -> Tensor:
    return scene_labels([scene for example in examples for scene in example.scenes])


def train(arguments: argparse.Namespace) -> None:
    """Train and write the checkpoint folder; prints losses as it goes."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    trainer = Trainer(arguments, demo_tokenizer())
    if arguments.start:
        trainer.load(arguments.start)
    if arguments.text:
        trainer.load_language_model(arguments.text)
    count = sum(p.numel() for p in trainer.model.parameters())
    print(f"parameters {count / 1e6:.2f} M", flush=True)
    steps = arguments.see_steps
    optimiser = MixedOptimiser(trainer.parameters(), arguments.rate, steps, 0.5)
    log = ProgressLog("see")
    for step in range(steps):
        loss, values = trainer.see(arguments.see_rows)
        loss.backward()
        optimiser.step()
        if log.add(step, steps, values):
            trainer.save(arguments.out)
    steps = arguments.steps
    optimiser = MixedOptimiser(trainer.parameters(), arguments.rate, steps, arguments.decay_from)
    log = ProgressLog("answer")
    for step in range(steps):
        values = _one_step(trainer, arguments)
        optimiser.step()
        if log.add(step, steps, values):
            trainer.save(arguments.out)


def _one_step(trainer: Trainer, arguments: argparse.Namespace) -> dict[str, float]:
    """Gradients of references and candidates, then of comparisons."""
    draw, share = trainer.examples, arguments.captions
    examples = [draw.reference(arguments.questions, share) for _ in range(arguments.references)]
    loss, values = trainer.answer(examples)
    loss.backward()
    if arguments.candidates:
        number = arguments.candidates
        loss, more = trainer.answer([draw.candidate(2 * arguments.questions, share)
                                     for _ in range(number)])  # fmt: skip
        loss.backward()
        values |= {name: (values.get(name, value) + value) / 2 for name, value in more.items()}
    if arguments.comparisons:
        loss, more = trainer.answer([draw.compared() for _ in range(arguments.comparisons)])
        loss.backward()
        values |= {"compare": more["compare"], "compare-fate?": more["fate?"],
                   "agree?": more["agree?"], "differ?": more["differ?"]}  # fmt: skip
    return values


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--see-steps", type=int, default=700)
    parser.add_argument("--see-rows", type=int, default=64)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--references", type=int, default=14, help="pictures to change, per step")
    parser.add_argument("--candidates", type=int, default=12, help="pictures to check, per step")
    parser.add_argument("--comparisons", type=int, default=16, help="pairs to compare, per step")
    parser.add_argument("--questions", type=int, default=3, help="per reference; candidates twice")
    parser.add_argument("--captions", type=float, default=0.25, help="share of pictures described")
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vision-width", type=int, default=128)
    parser.add_argument("--vision-layers", type=int, default=3)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--decay-from", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--text", type=Path, default=None, help="text checkpoint to start from")
    parser.add_argument("--start", type=Path, default=None, help="an earlier --out to continue")
    parser.add_argument("--start-index", type=int, default=0, help="examples drawn before that")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
