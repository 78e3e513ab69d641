"""The coordinator: what happens to one query, from imagination to re-ranking. It has no model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from msgspec.structs import replace

from broker.agents_client import Ask
from broker.query_state import QueryState, Verification, verification_of
from broker.search_options import (
    FEEDBACK,
    NEGATIVE,
    NO_OPTIONS,
    SearchOptions,
    edits_with,
    list_weights,
)
from broker.stages import Weights, candidates_to_compare, candidates_to_verify, verifies
from shared.contracts.limits import MAX_TEXT_CHARACTERS, too_long
from shared.contracts.skills import (
    CandidatesCompared,
    CandidatesVerified,
    Caption,
    CaptionImages,
    CompareCandidates,
    Edit,
    GalleryRanked,
    ImageImagined,
    ImagesCaptioned,
    ImagineImage,
    ImagineText,
    ListRequest,
    ProposeQuestions,
    QuestionsProposed,
    RankGallery,
    Request,
    Result,
    TextImagined,
    VerifyCaptions,
    VerifyImages,
)
from shared.datasets import Query
from shared.dialogues import NOTHING_SAID, Dialogue, dialogue_before
from shared.errors import ItemError
from shared.knobs import Knobs
from shared.ranking import decode_list

Answer = TypeVar("Answer", bound=Result)
First = TypeVar("First")
Second = TypeVar("Second")
Part = TypeVar("Part")


@dataclass(frozen=True)
class SearchSpace:
    """What a query is searched in.

    Attributes:
        gallery, database: keys of the gallery and of its image database.
        row_of: image id -> row; raises DatasetError for an unknown id.
        caption_of: row -> caption, None where captioning failed.
        exclude_reference: the protocol takes the reference image out of the ranking.
        verify_chunk: candidates per verification message.
        rows: how many rows the gallery has; an answer that ranks others is refused.
    """

    gallery: str
    database: str
    row_of: Callable[[str], int]
    caption_of: Callable[[int], str | None]
    exclude_reference: bool
    verify_chunk: int
    rows: int = 2**31 - 1


async def answer_query(
    query: Query,
    ask: Ask,
    space: SearchSpace,
    knobs: Knobs,
    dialogue: Dialogue = NOTHING_SAID,
    options: SearchOptions = NO_OPTIONS,
    tell: Callable[[QueryState], None] = lambda _: None,
) -> QueryState:
    """Answer one query: imagine, rank and propose, verify, compare.

    Whatever can be under way at the same time is. The state depends on the answers only, not on
    the order in which they come.

    Args:
        dialogue: what came before, where the query is a later round of a dialogue.
        options: what a searcher wishes beyond the query.
        tell: called with what is known as soon as the gallery is ranked.
    Raises: XRError: a part could not be done; the query has no answer then.
    """
    part = _Parts(query, ask, space, knobs, dialogue, options)
    text, image = await both(part.imagine_text(), part.imagine_image())

    async def rank() -> QueryState:
        gallery_ranked, subset_ranked = await part.rank(text, image)
        ranked = QueryState(
            query_id=query.query_id,
            status="ok",
            text=text,
            image=image,
            lists=gallery_ranked.lists,
            subset_lists=() if subset_ranked is None else subset_ranked.lists,
            text_embeddings=gallery_ranked.text_embeddings,
        )
        tell(ranked)
        return ranked

    ranked, proposed = await both(rank(), part.propose(text, image))
    state = replace(ranked, propositions=proposed.propositions, propositions_parsed=proposed.parsed)
    weights = weights_of(query, knobs, options)
    candidates = candidates_to_verify(state, knobs, weights)
    questions = tuple(proposition.question for proposition in proposed.propositions)
    image_answers, caption_answers = await both(
        part.verify_images(candidates, questions), part.verify_captions(candidates, questions)
    )
    state = replace(state, image_answers=image_answers, caption_answers=caption_answers)
    comparisons = await part.compare(candidates_to_compare(state, knobs, weights))
    return replace(state, comparisons=comparisons)


def query_answerer(
    queries: Sequence[Query],
    states: Mapping[str, QueryState],
    ask: Ask,
    space: SearchSpace,
    knobs: Knobs,
) -> Callable[[Query], Awaitable[QueryState]]:
    """`answer_query` for the queries of a run; a round of a dialogue gets what came before.

    Args:
        states: the run's states as they are recorded. A round whose predecessor has failed goes on
            from the last description there is, and from all that was said since.
    """
    by_id = {query.query_id: query for query in queries}

    def description_of(query_id: str) -> str:
        state = states.get(query_id)
        return "" if state is None or state.status == "failed" else state.description

    async def answer(query: Query) -> QueryState:
        dialogue = dialogue_before(query, by_id, description_of)
        return await answer_query(query, ask, space, knobs, dialogue)

    return answer


class _Parts:
    """The parts of one query, each asked of its agents and checked."""

    def __init__(
        self,
        query: Query,
        ask: Ask,
        space: SearchSpace,
        knobs: Knobs,
        dialogue: Dialogue,
        options: SearchOptions,
    ) -> None:
        if not query.modification_text.strip():
            raise ItemError("the query has no modification text")
        for what, text in (
            ("the modification text", query.modification_text),
            ("the negative text", options.negative_text),
        ):
            if problem := too_long(what, text, MAX_TEXT_CHARACTERS):
                raise ItemError(problem)
        self._query = query
        self._dialogue = dialogue
        self._options = options
        self._text = dialogue.whole_text(query.modification_text)
        self._ask_agent = ask
        self._space = space
        self._knobs = knobs
        self._reference = None if query.reference_id is None else space.row_of(query.reference_id)

    async def imagine_text(self) -> TextImagined | None:
        """M_t and C_t, from the reference's caption; without a reference from T_m alone.

        In a dialogue from what was imagined last, and what has been said since.
        """
        if not self._knobs.imagine_text:
            return None
        body = ImagineText(
            self._dialogue.new_text(self._query.modification_text),
            reference_caption=await self._reference_caption(),
            previous_description=self._dialogue.description,
        )
        return await self._ask("imagine_text", "0", body, TextImagined)

    async def _reference_caption(self) -> str:
        """c_r; empty without a reference. One that is not of the gallery is captioned now."""
        if self._options.outside is not None:
            outside = self._options.outside
            body = CaptionImages(outside.gallery, (outside.row,))
            answer = await self._ask("caption", "reference", body, ImagesCaptioned)
            (result,) = answer.results or (None,)
            if not isinstance(result, Caption):
                raise ItemError(f"the reference image cannot be captioned: {result}")
            return result.text
        if self._reference is None:
            return ""
        known = self._space.caption_of(self._reference)
        if known is None:
            raise ItemError(f"reference image {self._query.reference_id} has no caption")
        return known

    async def imagine_image(self) -> ImageImagined | None:
        """M_v and C_v, from the reference's pixels; without a reference from the text alone."""
        if not self._knobs.imagine_image:
            return None
        gallery = "" if self._reference is None else self._space.gallery
        row = self._reference
        if self._options.outside is not None:
            gallery, row = self._options.outside.gallery, self._options.outside.row
        body = ImagineImage(self._text, gallery, row)
        return await self._ask("imagine_image", "0", body, ImageImagined)

    async def rank(
        self, text: TextImagined | None, image: ImageImagined | None
    ) -> tuple[GalleryRanked, GalleryRanked | None]:
        """The gallery's best by every list, and the same of the query's subset, if it has one."""
        body = rank_request(
            self._query, text, image, self._space, self._knobs, self._dialogue, self._options
        )
        ranked = self._ranked("0", body)
        if self._options.feedback_row is not None:
            # One message has one reference: likeness to the marked image is asked for by another.
            like_it = replace(
                body,
                text_sets={},
                lists=(ListRequest(FEEDBACK, "image_only"),),
                reference_row=self._options.feedback_row,
            )
            of_text, of_feedback = await both(ranked, self._ranked(FEEDBACK, like_it))
            return replace(of_text, lists=of_text.lists + of_feedback.lists), None
        if not self._query.subset_ids:
            return await ranked, None
        of_subset = replace(body, subset_rows=subset_rows(self._query, self._space))
        return await both(ranked, self._ranked("subset", of_subset))

    async def _ranked(self, part: str, body: RankGallery) -> GalleryRanked:
        """What does not fit the gallery is refused here: it would end the whole run later."""
        answer = await self._ask("rank", part, body, GalleryRanked)
        if [one.name for one in answer.lists] != [one.name for one in body.lists]:
            raise ItemError("rank was answered with other lists than were asked for")
        for one in answer.lists:
            rows = decode_list(one).rows
            strange = rows[(rows < 0) | (rows >= self._space.rows)]
            if len(strange):
                raise ItemError(f"list {one.name!r} has row {strange[0]}, which is no image")
            if len(set(rows.tolist())) != len(rows):
                raise ItemError(f"list {one.name!r} has a row twice")
        return answer

    async def propose(
        self, text: TextImagined | None, image: ImageImagined | None
    ) -> QuestionsProposed:
        """The propositions that the candidates are verified by."""
        if not verifies(self._knobs):
            return QuestionsProposed(())
        edits: tuple[Edit, ...] = () if text is None else text.edits
        body = ProposeQuestions(
            modification_text=self._text,
            edits=edits_with(edits, self._options.negative_text),
            existent=() if image is None else image.existent,
            nonexistent=() if image is None else image.nonexistent,
            limit=self._knobs.num_questions,
        )
        return await self._ask("propose", "0", body, QuestionsProposed)

    async def verify_images(
        self, rows: Sequence[int], questions: tuple[str, ...]
    ) -> Verification | None:
        """P(yes) of each question about each candidate's image."""
        if not questions or self._knobs.verify_mode == "textual":
            return None

        async def verify(part: str, chunk: tuple[int, ...]) -> CandidatesVerified:
            body = VerifyImages(self._space.gallery, chunk, questions)
            return await self._ask("verify_image", part, body, CandidatesVerified)

        return await self._in_chunks(rows, verify, len(questions))

    async def verify_captions(
        self, rows: Sequence[int], questions: tuple[str, ...]
    ) -> Verification | None:
        """P(yes) of each question about each candidate's caption."""
        if not questions or self._knobs.verify_mode == "visual":
            return None

        async def verify(part: str, chunk: tuple[int, ...]) -> CandidatesVerified:
            body = VerifyCaptions(self._space.database, chunk, questions)
            return await self._ask("verify_caption", part, body, CandidatesVerified)

        return await self._in_chunks(rows, verify, len(questions))

    async def compare(self, rows: Sequence[int]) -> Verification | None:
        """P(yes) that each candidate is the reference with the change made."""
        reference = self._reference
        if not rows or reference is None:
            return None

        async def compare(part: str, chunk: tuple[int, ...]) -> CandidatesCompared:
            body = CompareCandidates(self._space.gallery, reference, chunk, self._text)
            return await self._ask("compare", part, body, CandidatesCompared)

        return await self._in_chunks(rows, compare, 1)

    async def _in_chunks(
        self,
        rows: Sequence[int],
        verify: Callable[
            [str, tuple[int, ...]], Awaitable[CandidatesVerified | CandidatesCompared]
        ],
        questions: int,
    ) -> Verification:
        """Ask about all rows, a chunk a message, all messages under way at once."""
        size = self._space.verify_chunk
        chunks = [tuple(rows[first : first + size]) for first in range(0, len(rows), size)]
        answered = await together(
            [verify(str(number), chunk) for number, chunk in enumerate(chunks)]
        )
        for chunk, answer in zip(chunks, answered, strict=True):
            if len(answer.results) != len(chunk):
                raise ItemError(f"{len(answer.results)} answers about {len(chunk)} candidates")
        return verification_of(rows, [one for all_ in answered for one in all_.results], questions)

    async def _ask(self, step: str, part: str, body: Request, kind: type[Answer]) -> Answer:
        result = await self._ask_agent(self._query.query_id, step, part, body)
        if not isinstance(result, kind):
            raise ItemError(f"{step} was answered by a {type(result).__name__}")
        return result


def rank_request(
    query: Query,
    text: TextImagined | None,
    image: ImageImagined | None,
    space: SearchSpace,
    knobs: Knobs,
    dialogue: Dialogue = NOTHING_SAID,
    options: SearchOptions = NO_OPTIONS,
) -> RankGallery:
    """What the similarity agent is asked for one query, of the whole gallery."""
    reference = None if query.reference_id is None else space.row_of(query.reference_id)
    excluded = knobs.exclude_reference
    if excluded is None:
        excluded = space.exclude_reference
    lists = {one.name: one for one in knobs.requested_lists(has_reference=reference is not None)}
    weighted = list_weights(knobs, options, reference is not None) or {}
    lists |= {one.name: one for one in weighted if one.name != FEEDBACK}
    text_sets = text_sets_of(dialogue.whole_text(query.modification_text), text, image)
    if options.negative_text:
        text_sets[NEGATIVE] = (options.negative_text,)
    return RankGallery(
        database=space.database,
        text_sets=text_sets,
        lists=tuple(lists.values()),
        text_weight=knobs.text_weight,
        depth=knobs.rank_depth,
        excluded_rows=(reference,) if excluded and reference is not None else (),
        reference_row=reference,
    )


def weights_of(query: Query, knobs: Knobs, options: SearchOptions) -> Weights | None:
    """How much each list counts, by name; None = as the knobs alone have it."""
    weighted = list_weights(knobs, options, query.reference_id is not None)
    return None if weighted is None else {one.name: weight for one, weight in weighted.items()}


def subset_rows(query: Query, space: SearchSpace) -> tuple[int, ...]:
    """The rows of the query's subset, in the data set's order; empty where it has none."""
    return tuple(space.row_of(image_id) for image_id in query.subset_ids)


def text_sets_of(
    modification_text: str, text: TextImagined | None, image: ImageImagined | None
) -> dict[str, tuple[str, ...]]:
    """v1 = C_t, v2 = {C_v}, aug = both, text = {T_m}; a set without texts is left out."""
    core = () if text is None else tuple(caption for caption in text.captions if caption.strip())
    seen = () if image is None or not image.caption.strip() else (image.caption,)
    sets = {"v1": core, "v2": seen, "aug": core + seen, "text": (modification_text,)}
    return {name: texts for name, texts in sets.items() if texts}


async def both(first: Awaitable[First], second: Awaitable[Second]) -> tuple[First, Second]:
    """Both results; when both fail, the first one's error, whichever came first in time."""
    one, two = await asyncio.gather(first, second, return_exceptions=True)
    if isinstance(one, BaseException):
        raise one
    if isinstance(two, BaseException):
        raise two
    return one, two


async def together(parts: Sequence[Awaitable[Part]]) -> list[Part]:
    """All results in order; when some fail, the error of the first of them in order."""
    results = await asyncio.gather(*parts, return_exceptions=True)
    done: list[Part] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        done.append(result)
    return done
