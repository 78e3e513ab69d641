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
    verify_caption_jointly_prompt,
    verify_caption_prompt,
    verify_image_jointly_prompt,
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
        joint: bool = False,
    ) -> None:
        """
        Args:
            models: by role: proposer, evaluator_image, evaluator_caption, comparer.
            joint: all questions about a candidate are put in one prompt, and answered in a row.
        """
        self._models = models
        self._prompts = prompts
        self._galleries = galleries
        self._databases = databases
        self._joint = joint

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
        found, questions = usable(images), body.questions
        if self._joint and questions:
            asked = [verify_image_jointly_prompt(self._prompts, i, questions) for i in found]
        else:
            asked = [verify_image_prompt(self._prompts, i, q) for i in found for q in questions]
        return self._verifying("evaluator_image", asked, images, len(questions))

    def _verify_captions(self, body: VerifyCaptions) -> Plan:
        captions = self._databases.captions(body.database, body.rows)
        found, questions = usable(captions), body.questions
        if self._joint and questions:
            asked = [verify_caption_jointly_prompt(self._prompts, questions, c) for c in found]
        else:
            asked = [verify_caption_prompt(self._prompts, q, c) for c in found for q in questions]
        return self._verifying("evaluator_caption", asked, captions, len(questions))

    def _verifying(
        self, role: str, asked: Sequence[Prompt], rows: Sequence[object], questions: int
    ) -> ChoicePlan:
        in_a_row = questions if self._joint else 1

        def result(answers: Sequence[Chosen]) -> Result:
            return CandidatesVerified(yes_answers(answers, rows, questions, in_a_row))

        return ChoicePlan(self._models[role], _choices(asked, in_a_row), result)

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


def _choices(prompts: Sequence[Prompt], in_a_row: int = 1) -> tuple[ChoiceRequest, ...]:
    return tuple(ChoiceRequest(prompt, count=in_a_row) for prompt in prompts)
