"""The coordinator: what happens to one query, from imagination to re-ranking. It has no model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

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
from broker.stages import Weights, candidates_to_compare, verifies
from broker.verification import AskAbout, Side, in_chunks, verify
from shared.contracts.limits import MAX_TEXT_CHARACTERS, too_long
from shared.contracts.skills import (
    Answers,
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
    ItemFailure,
    ListRequest,
    ProposeQuestions,
    Proposition,
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
from shared.tasks import both

Answer = TypeVar("Answer", bound=Result)
Answered: TypeAlias = Answers | ItemFailure


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
        eligible_rows: when given, only these are ranked (a filter chose them).
    """

    gallery: str
    database: str
    row_of: Callable[[str], int]
    caption_of: Callable[[int], str | None]
    exclude_reference: bool
    verify_chunk: int
    rows: int = 2**31 - 1
    eligible_rows: tuple[int, ...] | None = None


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
    ask_about = part.verify_by(proposed.propositions)
    state = await verify(state, knobs, ask_about, space.verify_chunk, weights)
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

    def verify_by(self, propositions: Sequence[Proposition]) -> AskAbout:
        """What asks these propositions about candidates' images or captions: P(yes) of each."""
        questions = tuple(proposition.question for proposition in propositions)

        async def ask_about(side: Side, part: str, rows: tuple[int, ...]) -> Sequence[Answered]:
            body: VerifyImages | VerifyCaptions = (
                VerifyImages(self._space.gallery, rows, questions)
                if side == "image"
                else VerifyCaptions(self._space.database, rows, questions)
            )
            answer = await self._ask(f"verify_{side}", part, body, CandidatesVerified)
            return one_a_row(answer.results, rows)

        return ask_about

    async def compare(self, rows: Sequence[int]) -> Verification | None:
        """P(yes) that each candidate is the reference with the change made."""
        reference = self._reference
        if not rows or reference is None:
            return None

        async def compare(part: str, chunk: tuple[int, ...]) -> Sequence[Answered]:
            body = CompareCandidates(self._space.gallery, reference, chunk, self._text)
            answer = await self._ask("compare", part, body, CandidatesCompared)
            return one_a_row(answer.results, chunk)

        answers = await in_chunks(compare, rows, self._space.verify_chunk)
        return verification_of(rows, list(answers.values()), 1)

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
        subset_rows=space.eligible_rows,
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


def one_a_row(results: Sequence[Answered], rows: Sequence[int]) -> Sequence[Answered]:
    """Raises: ItemError: there are not as many answers as rows."""
    if len(results) != len(rows):
        raise ItemError(f"{len(results)} answers about {len(rows)} candidates")
    return results
