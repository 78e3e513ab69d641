"""The question agent: proposes questions about the target, and asks them of candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agents.backends.contract import ChoiceRequest, GenerationRequest, LanguageModel, Prompt
from agents.plans import (
    ChoicePlan,
    Chosen,
    Generated,
    GenerationPlan,
    Plan,
    answer_batch,
    usable,
    yes_answers,
)
from agents.prompting import PromptSet
from agents.question.parsing import propositions
from agents.question.schemas import propositions_schema
from agents.skill_prompts import (
    compare_prompt,
    propose_prompt,
    verify_caption_prompt,
    verify_image_prompt,
)
from agents.stores import Databases, Galleries
from shared.contracts.messages import Failure, RequestMessage
from shared.contracts.skills import (
    Body,
    CandidatesCompared,
    CandidatesVerified,
    CompareCandidates,
    ItemFailure,
    ProposeQuestions,
    Result,
    VerifyCaptions,
    VerifyImages,
)
from shared.errors import ItemError


class QuestionAgent:
    """Answers ProposeQuestions, VerifyImages, VerifyCaptions and CompareCandidates."""

    def __init__(
        self,
        models: Mapping[str, LanguageModel],
        prompts: PromptSet,
        galleries: Galleries,
        databases: Databases,
    ) -> None:
        """`models` by role: proposer, evaluator_image, evaluator_caption."""
        self._models = models
        self._prompts = prompts
        self._galleries = galleries
        self._databases = databases

    def answer(self, messages: Sequence[RequestMessage]) -> list[Result | Failure]:
        """One result per message, in order; all messages share the models' batches."""
        return answer_batch(messages, self._plan)

    def _plan(self, body: Body) -> Plan:
        if isinstance(body, ProposeQuestions):
            return self._propose(body)
        if isinstance(body, VerifyImages):
            return self._verify_images(body)
        if isinstance(body, VerifyCaptions):
            return self._verify_captions(body)
        if isinstance(body, CompareCandidates):
            return self._compare(body)
        raise ItemError(f"the question agent has no skill for {type(body).__name__}")

    def _propose(self, body: ProposeQuestions) -> Plan:
        if body.limit < 1:
            raise ItemError(f"{body.limit} propositions asked for; at least 1 is needed")
        prompt = propose_prompt(
            self._prompts, body.modification_text, body.edits, body.existent, body.nonexistent
        )
        request = GenerationRequest(
            prompt, self._prompts["propose"].max_tokens, propositions_schema(body.limit)
        )

        def result(answers: Sequence[Generated]) -> Result | Failure:
            (answer,) = answers
            if isinstance(answer, ItemError):
                return Failure(str(answer))
            return propositions(answer, body.limit)

        return GenerationPlan(self._models["proposer"], (request,), result)

    def _verify_images(self, body: VerifyImages) -> Plan:
        images = self._galleries.images(body.gallery, body.rows)
        asked = [
            verify_image_prompt(self._prompts, image, question)
            for image in usable(images)
            for question in body.questions
        ]

        def result(answers: Sequence[Chosen]) -> Result:
            return CandidatesVerified(yes_answers(answers, images, len(body.questions)))

        return ChoicePlan(self._models["evaluator_image"], _choices(asked), result)

    def _verify_captions(self, body: VerifyCaptions) -> Plan:
        captions = self._databases.captions(body.database, body.rows)
        asked = [
            verify_caption_prompt(self._prompts, question, caption)
            for caption in usable(captions)
            for question in body.questions
        ]

        def result(answers: Sequence[Chosen]) -> Result:
            return CandidatesVerified(yes_answers(answers, captions, len(body.questions)))

        return ChoicePlan(self._models["evaluator_caption"], _choices(asked), result)

    def _compare(self, body: CompareCandidates) -> Plan:
        (reference,) = self._galleries.images(body.gallery, (body.reference_row,))
        if isinstance(reference, ItemFailure):
            raise ItemError(f"the reference image: {reference.reason}")
        candidates = self._galleries.images(body.gallery, body.rows)
        asked = [
            compare_prompt(self._prompts, reference, candidate, body.modification_text)
            for candidate in usable(candidates)
        ]

        def result(answers: Sequence[Chosen]) -> Result:
            return CandidatesCompared(yes_answers(answers, candidates, 1))

        return ChoicePlan(self._models["comparer"], _choices(asked), result)


def _choices(prompts: Sequence[Prompt]) -> tuple[ChoiceRequest, ...]:
    return tuple(ChoiceRequest(prompt) for prompt in prompts)
