"""Sends a real item through every skill an agent serves, before it takes messages."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from PIL import Image

from agents.backends.contract import (
    ChoiceRequest,
    EmbeddingModel,
    GenerationRequest,
    ImageFile,
    LanguageModel,
)
from agents.imagination.schemas import IMAGE_IMAGINATION, TEXT_IMAGINATION
from agents.profiles import Model
from agents.prompting import PromptSet
from agents.question.schemas import propositions_schema
from agents.skill_prompts import (
    caption_prompt,
    imagine_image_prompt,
    imagine_text_prompt,
    propose_prompt,
    verify_caption_prompt,
    verify_image_prompt,
)
from shared.contracts.skills import Edit
from shared.errors import ConfigurationError, ItemError

_ANSWER_TOKENS = 2
"""Enough for one pass over a prompt and one step of decoding."""
_SIDE_PX = 96


def warm_up(models: Mapping[str, Model], prompts: PromptSet) -> None:
    """Fills caches, compiles grammars, and finds out that the models work.

    Raises: ConfigurationError: a role's model could not take a real item; the message names it.
    """
    with tempfile.TemporaryDirectory() as folder:
        image = _sample_image(Path(folder))
        for role, model in models.items():
            # an answer given before says nothing of the model now
            outcome = _try(role, getattr(model, "uncached", model), prompts, image)
            if isinstance(outcome, ItemError):
                raise ConfigurationError(f"the model of role {role} fails to warm up: {outcome}")


def _try(role: str, model: Model, prompts: PromptSet, image: ImageFile) -> object:
    """What the model makes of one item of this role."""
    if role == "clip":
        clip = cast(EmbeddingModel, model)
        outcomes = [*clip.embed_images([image]), *clip.embed_texts(["a red square"])]
        return next((o for o in outcomes if isinstance(o, ItemError)), None)
    language = cast(LanguageModel, model)
    if role in ("evaluator_image", "comparer"):
        return language.choose([ChoiceRequest(verify_image_prompt(prompts, image, "Is it red?"))])[
            0
        ]
    if role == "evaluator_caption":
        prompt = verify_caption_prompt(prompts, "Is it red?", "a red square")
        return language.choose([ChoiceRequest(prompt)])[0]
    if role == "captioner":
        request = GenerationRequest(caption_prompt(prompts, image), _ANSWER_TOKENS)
    elif role == "imaginer_text":
        prompt = imagine_text_prompt(prompts, "make it blue", "a red square")
        request = GenerationRequest(prompt, _ANSWER_TOKENS, TEXT_IMAGINATION)
    elif role == "imaginer_image":
        prompt = imagine_image_prompt(prompts, "make it blue", image)
        request = GenerationRequest(prompt, _ANSWER_TOKENS, IMAGE_IMAGINATION)
    else:
        edit = Edit("modify", "a red square", "a blue square")
        prompt = propose_prompt(prompts, "make it blue", [edit], ["a blue square"], [])
        request = GenerationRequest(prompt, _ANSWER_TOKENS, propositions_schema(3))
    return language.generate([request])[0]


def _sample_image(folder: Path) -> ImageFile:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((_SIDE_PX, _SIDE_PX)).convert("RGB").save(buffer, "PNG")
    path = folder / "gradient.png"
    path.write_bytes(buffer.getvalue())
    return ImageFile(path, hashlib.sha256(buffer.getvalue()).hexdigest())
