"""The imagination agent: captions images and imagines targets, from text and from pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from agents.backends.contract import GenerationRequest, ImageFile, LanguageModel
from agents.imagination.parsing import image_imagination, text_imagination
from agents.imagination.schemas import IMAGE_IMAGINATION, TEXT_IMAGINATION
from agents.plans import Generated, GenerationPlan, Plan, answer_batch, usable
from agents.prompting import PromptSet
from agents.skill_prompts import (
    caption_prompt,
    imagine_dialogue_prompt,
    imagine_image_prompt,
    imagine_text_prompt,
)
from agents.stores import Galleries
from shared.contracts.messages import Failure, RequestMessage
from shared.contracts.skills import (
    Body,
    Caption,
    CaptionImages,
    ImagesCaptioned,
    ImagineImage,
    ImagineText,
    ItemFailure,
    Result,
)
from shared.dialogues import joined
from shared.errors import ItemError


class ImaginationAgent:
    """Answers CaptionImages, ImagineText and ImagineImage."""

    def __init__(
        self, models: Mapping[str, LanguageModel], prompts: PromptSet, galleries: Galleries
    ) -> None:
        """`models` by role: captioner, imaginer_text, imaginer_image."""
        self._models = models
        self._prompts = prompts
        self._galleries = galleries

    def answer(self, messages: Sequence[RequestMessage]) -> list[Result | Failure]:
        """One result per message, in order; all messages share the models' batches."""
        return answer_batch(messages, self._plan)

    def _plan(self, body: Body) -> Plan:
        if isinstance(body, CaptionImages):
            return self._caption(body)
        if isinstance(body, ImagineText):
            return self._imagine_text(body)
        if isinstance(body, ImagineImage):
            return self._imagine_image(body)
        raise ItemError(f"the imagination agent has no skill for {type(body).__name__}")

    def _caption(self, body: CaptionImages) -> Plan:
        images = self._galleries.images(body.gallery, body.rows)
        requests = [
            GenerationRequest(
                caption_prompt(self._prompts, image), self._prompts["caption"].max_tokens
            )
            for image in usable(images)
        ]
        return GenerationPlan(
            self._models["captioner"], tuple(requests), partial(_images_captioned, images)
        )

    def _imagine_text(self, body: ImagineText) -> Plan:
        if body.previous_description:
            prompt = imagine_dialogue_prompt(
                self._prompts, body.modification_text, body.previous_description
            )
            max_tokens = self._prompts["imagine_dialogue"].max_tokens
        else:
            prompt = imagine_text_prompt(
                self._prompts, body.modification_text, body.reference_caption
            )
            max_tokens = self._prompts["imagine_text"].max_tokens
        request = GenerationRequest(prompt, max_tokens, TEXT_IMAGINATION)
        fallback = joined(*filter(None, (body.previous_description, body.modification_text)))

        def result(answers: Sequence[Generated]) -> Result | Failure:
            (answer,) = answers
            if isinstance(answer, ItemError):
                return Failure(str(answer))
            return text_imagination(answer, fallback)

        return GenerationPlan(self._models["imaginer_text"], (request,), result)

    def _imagine_image(self, body: ImagineImage) -> Plan:
        reference = self._reference(body)
        request = GenerationRequest(
            imagine_image_prompt(self._prompts, body.modification_text, reference),
            self._prompts["imagine_image"].max_tokens,
            IMAGE_IMAGINATION,
        )

        def result(answers: Sequence[Generated]) -> Result | Failure:
            (answer,) = answers
            if isinstance(answer, ItemError):
                return Failure(str(answer))
            return image_imagination(answer, body.modification_text)

        return GenerationPlan(self._models["imaginer_image"], (request,), result)

    def _reference(self, body: ImagineImage) -> ImageFile | None:
        """Raises: ItemError: the reference image is missing or broken."""
        if body.row is None:
            return None
        (image,) = self._galleries.images(body.gallery, (body.row,))
        if isinstance(image, ItemFailure):
            raise ItemError(image.reason)
        return image


def _images_captioned(
    images: Sequence[ImageFile | ItemFailure], answers: Sequence[Generated]
) -> Result:
    remaining = iter(answers)
    return ImagesCaptioned(
        tuple(
            image if isinstance(image, ItemFailure) else _caption_of(next(remaining))
            for image in images
        )
    )


def _caption_of(answer: Generated) -> Caption | ItemFailure:
    if isinstance(answer, ItemError):
        return ItemFailure(str(answer))
    text = " ".join(answer.split())
    return Caption(text) if text else ItemFailure("the captioner's answer is empty")
