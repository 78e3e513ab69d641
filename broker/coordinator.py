"""The coordinator: what happens to one query, from imagination to re-ranking. It has no model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from msgspec.structs import replace

from broker.agents_client import Ask
from broker.query_state import QueryState, Verification, verification_of
from broker.stages import candidates_to_compare, candidates_to_verify, verifies
from shared.contracts.skills import (
    CandidatesCompared,
    CandidatesVerified,
    CompareCandidates,
    Edit,
    GalleryRanked,
    ImageImagined,
    ImagineImage,
    ImagineText,
    ProposeQuestions,
    QuestionsProposed,
    RankedList,
    RankGallery,
    Request,
    Result,
    TextImagined,
    VerifyCaptions,
    VerifyImages,
)
from shared.datasets import Query
from shared.errors import ItemError
from shared.knobs import Knobs

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
    """

    gallery: str
    database: str
    row_of: Callable[[str], int]
    caption_of: Callable[[int], str | None]
    exclude_reference: bool
    verify_chunk: int


async def answer_query(query: Query, ask: Ask, space: SearchSpace, knobs: Knobs) -> QueryState:
    """Answer one query: imagine, rank and propose, verify, compare.

    Whatever can be under way at the same time is. The state depends on the answers only, not on
    the order in which they come.

    Raises: XRError: a part could not be done; the query has no answer then.
    """
    part = _Parts(query, ask, space, knobs)
    text, image = await both(part.imagine_text(), part.imagine_image())
    ranked, proposed = await both(part.rank(text, image), part.propose(text, image))
    lists, subset_lists = ranked
    state = QueryState(
        query_id=query.query_id,
        status="ok",
        text=text,
        image=image,
        propositions=proposed.propositions,
        propositions_parsed=proposed.parsed,
        lists=lists,
        subset_lists=subset_lists,
    )
    candidates = candidates_to_verify(state, knobs)
    questions = tuple(proposition.question for proposition in proposed.propositions)
    image_answers, caption_answers = await both(
        part.verify_images(candidates, questions), part.verify_captions(candidates, questions)
    )
    state = replace(state, image_answers=image_answers, caption_answers=caption_answers)
    comparisons = await part.compare(candidates_to_compare(state, knobs))
    return replace(state, comparisons=comparisons)


class _Parts:
    """The parts of one query, each asked of its agents and checked."""

    def __init__(self, query: Query, ask: Ask, space: SearchSpace, knobs: Knobs) -> None:
        if not query.modification_text.strip():
            raise ItemError("the query has no modification text")
        self._query = query
        self._ask_agent = ask
        self._space = space
        self._knobs = knobs
        self._reference = None if query.reference_id is None else space.row_of(query.reference_id)

    async def imagine_text(self) -> TextImagined | None:
        """M_t and C_t, from the reference's caption; without a reference from T_m alone."""
        if not self._knobs.imagine_text:
            return None
        caption = ""
        if self._reference is not None:
            known = self._space.caption_of(self._reference)
            if known is None:
                raise ItemError(f"reference image {self._query.reference_id} has no caption")
            caption = known
        body = ImagineText(self._query.modification_text, reference_caption=caption)
        return await self._ask("imagine_text", "0", body, TextImagined)

    async def imagine_image(self) -> ImageImagined | None:
        """M_v and C_v, from the reference's pixels."""
        if not self._knobs.imagine_image:
            return None
        gallery = "" if self._reference is None else self._space.gallery
        body = ImagineImage(self._query.modification_text, gallery, self._reference)
        return await self._ask("imagine_image", "0", body, ImageImagined)

    async def rank(
        self, text: TextImagined | None, image: ImageImagined | None
    ) -> tuple[tuple[RankedList, ...], tuple[RankedList, ...]]:
        """The gallery's best by every list, and the same of the query's subset, if it has one."""
        text_sets = text_sets_of(self._query.modification_text, text, image)
        body = RankGallery(
            database=self._space.database,
            text_sets=text_sets,
            lists=self._knobs.requested_lists(has_reference=self._reference is not None),
            text_weight=self._knobs.text_weight,
            depth=self._knobs.rank_depth,
            excluded_rows=self._excluded_rows(),
            reference_row=self._reference,
        )
        ranked = self._ask("rank", "0", body, GalleryRanked)
        if not self._query.subset_ids:
            return (await ranked).lists, ()
        subset = tuple(self._space.row_of(image_id) for image_id in self._query.subset_ids)
        of_subset = replace(body, subset_rows=subset)
        everything, members = await both(
            ranked, self._ask("rank", "subset", of_subset, GalleryRanked)
        )
        return everything.lists, members.lists

    async def propose(
        self, text: TextImagined | None, image: ImageImagined | None
    ) -> QuestionsProposed:
        """The propositions that the candidates are verified by."""
        if not verifies(self._knobs):
            return QuestionsProposed(())
        edits: tuple[Edit, ...] = () if text is None else text.edits
        body = ProposeQuestions(
            modification_text=self._query.modification_text,
            edits=edits,
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
            body = CompareCandidates(
                self._space.gallery, reference, chunk, self._query.modification_text
            )
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

    def _excluded_rows(self) -> tuple[int, ...]:
        excluded = self._knobs.exclude_reference
        if excluded is None:
            excluded = self._space.exclude_reference
        return (self._reference,) if excluded and self._reference is not None else ()


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
