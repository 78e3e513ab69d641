"""The agents' answers as a run has recorded them, given again without any model.

A replay is a run whose every answer comes from here; a run that restores another takes some of them
from here and asks the agents for the rest. Both go through `answer_query` like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
from msgspec.structs import replace

from broker.agents_client import Ask
from broker.query_state import QueryState, Verification
from shared.contracts.skills import (
    Answers,
    CandidatesCompared,
    CandidatesVerified,
    CompareCandidates,
    GalleryRanked,
    ItemFailure,
    ProposeQuestions,
    QuestionsProposed,
    RankGallery,
    Request,
    Result,
    VerifyCaptions,
    VerifyImages,
)
from shared.errors import ItemError
from shared.gallery_index import EmbeddedGallery
from shared.ranking import decode_list, encode_list, rank_gallery
from shared.scored_keys import ScoredRows

Step = Literal[
    "imagine_text", "imagine_image", "rank", "propose", "verify_image", "verify_caption", "compare"
]
IMAGINATION: tuple[Step, ...] = ("imagine_text", "imagine_image")
RANKING: tuple[Step, ...] = ("rank",)
VERIFICATION: tuple[Step, ...] = ("propose", "verify_image", "verify_caption")
COMPARISON: tuple[Step, ...] = ("compare",)
EVERY_STEP = IMAGINATION + RANKING + VERIFICATION + COMPARISON

NOT_ASKED = "the recorded run did not ask about this candidate"

Ranker: TypeAlias = Callable[[QueryState, RankGallery], GalleryRanked]
"""How a recorded query is ranked: `ranked_again` or `ranked_as_recorded`."""


class RecordedAnswers:
    """An `Ask` that answers from states, and asks somebody else for what they do not hold."""

    def __init__(
        self,
        states: Mapping[str, QueryState],
        rank: Ranker,
        steps: Collection[Step] = EVERY_STEP,
        otherwise: Ask | None = None,
    ) -> None:
        """
        Args:
            steps: what is taken from the states; everything else is asked of `otherwise`.
            otherwise: also asked about queries that were not answered, and about candidates that
                were not asked about. None: the former fail, the latter have failed (`NOT_ASKED`).
        """
        self._states = states
        self._rank = rank
        self._steps = steps
        self._otherwise = otherwise

    async def __call__(self, query_id: str, step: str, part: str, body: Request) -> Result:
        """Raises: ItemError: the record does not fit. Whatever `otherwise` raises."""
        state = self._states.get(query_id)
        if step not in self._steps or state is None or state.status == "failed":
            return await self._ask_somebody(query_id, step, part, body)
        if step == "imagine_text" and state.text is not None:
            return state.text
        if step == "imagine_image" and state.image is not None:
            return state.image
        if isinstance(body, RankGallery):
            return self._rank(state, body)
        if isinstance(body, ProposeQuestions):
            return QuestionsProposed(state.propositions[: body.limit], state.propositions_parsed)
        if isinstance(body, VerifyImages):
            _check_questions(state, body.questions)
            known = _known(state.image_answers, len(body.questions))
        elif isinstance(body, VerifyCaptions):
            _check_questions(state, body.questions)
            known = _known(state.caption_answers, len(body.questions))
        elif isinstance(body, CompareCandidates):
            known = _known(state.comparisons, 1)
        else:
            raise ItemError(f"the recorded run has no answer to {step}")
        return await self._candidates(query_id, step, part, body, known)

    async def _candidates(
        self,
        query_id: str,
        step: str,
        part: str,
        body: VerifyImages | VerifyCaptions | CompareCandidates,
        known: Mapping[int, Answers | ItemFailure],
    ) -> Result:
        missing = tuple(row for row in body.rows if row not in known)
        if missing and self._otherwise is not None:
            rest = _about(body, missing)
            answered = await self._otherwise(query_id, step, part, rest)
            if not isinstance(answered, CandidatesVerified | CandidatesCompared):
                raise ItemError(f"{step} was answered by a {type(answered).__name__}")
            if len(answered.results) != len(missing):
                raise ItemError(f"{len(answered.results)} answers about {len(missing)} candidates")
            known = {**known, **dict(zip(missing, answered.results, strict=True))}
        results = tuple(known.get(row, ItemFailure(NOT_ASKED)) for row in body.rows)
        if isinstance(body, CompareCandidates):
            return CandidatesCompared(results)
        return CandidatesVerified(results)

    async def _ask_somebody(self, query_id: str, step: str, part: str, body: Request) -> Result:
        if self._otherwise is None:
            raise ItemError(f"the recorded run has no answer to {step}")
        return await self._otherwise(query_id, step, part, body)


def ranked_again(gallery: EmbeddedGallery) -> Ranker:
    """Lists computed from the recorded text embeddings, exactly as the agent computes them."""

    def rank(state: QueryState, body: RankGallery) -> GalleryRanked:
        return rank_gallery(body, gallery, state.text_embeddings)

    return rank


def ranked_as_recorded(state: QueryState, body: RankGallery) -> GalleryRanked:
    """The recorded lists, cut to the depth asked for.

    Raises: ItemError: a list was not recorded.
    """
    recorded = state.lists if body.subset_rows is None else state.subset_lists
    by_name = {ranked.name: ranked for ranked in recorded}
    lists = []
    for wanted in body.lists:
        if wanted.name not in by_name:
            raise ItemError(f"the recorded run has no list {wanted.name!r}")
        rows, scores = decode_list(by_name[wanted.name])
        cut = ScoredRows(rows[: body.depth], scores[: body.depth])
        lists.append(encode_list(wanted.name, cut))
    return GalleryRanked(tuple(lists), state.text_embeddings)


def _check_questions(state: QueryState, questions: Sequence[str]) -> None:
    recorded = tuple(proposition.question for proposition in state.propositions)
    if recorded[: len(questions)] != tuple(questions):
        raise ItemError("the recorded run asked other questions")


def _known(
    verification: Verification | None, questions: int
) -> Mapping[int, Answers | ItemFailure]:
    """row -> its answers to the first questions, or why it has none."""
    if verification is None:
        return {}
    rows, p_yes = verification.table()
    failures = dict(verification.failures)
    first = np.asarray(p_yes[:, :questions]).tolist()
    return {
        row: ItemFailure(failures[row]) if row in failures else Answers(tuple(answers))
        for row, answers in zip(rows.tolist(), first, strict=True)
    }


def _about(
    body: VerifyImages | VerifyCaptions | CompareCandidates, rows: tuple[int, ...]
) -> VerifyImages | VerifyCaptions | CompareCandidates:
    return replace(body, rows=rows)
