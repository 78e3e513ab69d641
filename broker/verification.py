"""Verification of one query's candidates: of all of them, or until the best N are certain."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
from msgspec.structs import replace

from broker.query_state import QueryState, verification_of
from broker.stages import (
    Candidates,
    Weights,
    best_to_settle,
    candidates_to_verify,
    needed_answers,
)
from shared.contracts.skills import Answers, ItemFailure
from shared.early_stop import Known, Mask, Needed
from shared.errors import XRError
from shared.knobs import Knobs
from shared.reranking import VerifyMode, verification_scores
from shared.tasks import stop_tasks, together

Side = Literal["image", "caption"]
Found: TypeAlias = "dict[int, Answers | ItemFailure]"
"""Row -> the answers about its image, or about its caption."""
AskAbout: TypeAlias = Callable[
    [Side, str, tuple[int, ...]], Awaitable[Sequence[Answers | ItemFailure]]
]
"""(side, part, rows) -> an entry per row."""

AHEAD = 10
"""How many candidates are asked about before it is certain that they matter."""

_SIDES: dict[VerifyMode, tuple[Side, ...]] = {
    "both": ("image", "caption"),
    "visual": ("image",),
    "textual": ("caption",),
}


async def verify(
    state: QueryState,
    knobs: Knobs,
    ask_about: AskAbout,
    chunk_size: int,
    weights: Weights | None = None,
) -> QueryState:
    """The state with the answers about its candidates' images and captions.

    All of them are asked about at once. Where it is enough that the best N are certain, those are
    asked about that the best may still depend on, and when they are certain, what is under way is
    dropped. The state then holds the answers that were needed, and no others: it does not depend
    on what happened to be under way, nor on which answer came first.

    Args:
        chunk_size: candidates a message, at most.
        weights: of the fused lists, where a search has its own.
    Raises: XRError: what was needed was not answered.
    """
    if not state.propositions:
        return state
    candidates, sides = candidates_to_verify(state, knobs, weights), _SIDES[knobs.verify_mode]
    best = best_to_settle(knobs)
    if best is None:
        rows = candidates.rows()
        everything = [in_chunks(partial(ask_about, side), rows, chunk_size) for side in sides]
        found = dict(zip(sides, await together(everything), strict=True))
    else:
        stopping = _EarlyStop(state, candidates, best, knobs)
        found = await stopping.answers(sides, ask_about, chunk_size)
    tables = {
        f"{side}_answers": verification_of(
            list(answers), list(answers.values()), len(state.propositions)
        )
        for side, answers in found.items()
    }
    return replace(state, **tables)


async def in_chunks(
    ask: Callable[[str, tuple[int, ...]], Awaitable[Sequence[Answers | ItemFailure]]],
    rows: Sequence[int],
    chunk_size: int,
    first_part: int = 0,
) -> Found:
    """Ask about rows, a chunk a message, all at once; parts are numbered from `first_part`."""
    chunks = [tuple(rows[at : at + chunk_size]) for at in range(0, len(rows), chunk_size)]
    answered = await together([ask(str(part), c) for part, c in enumerate(chunks, first_part)])
    return dict(zip(rows, [one for answers in answered for one in answers], strict=True))


class _EarlyStop:
    """Verification until the best N are certain; see `shared.early_stop`.

    Images and captions are asked about side by side, in one go each at a time. What fails though it
    was not needed after all does no harm.
    """

    def __init__(self, state: QueryState, candidates: Candidates, best: int, knobs: Knobs) -> None:
        self._candidates, self._best, self._knobs = candidates, best, knobs
        self._expected = [proposition.expected for proposition in state.propositions]
        self._rows = [row for row, _ in candidates.head]
        self._place_of = {row: place for place, row in enumerate(self._rows)}
        self._found: dict[Side, Found] = {"image": {}, "caption": {}}
        self._known: dict[Side, Known] = {side: _nothing_known(self._rows) for side in self._found}
        self._failed: dict[tuple[Side, int], XRError] = {}
        self._needed = self._look()

    async def answers(
        self, sides: Sequence[Side], ask_about: AskAbout, chunk_size: int
    ) -> dict[Side, Found]:
        """The answers that were needed. Raises: XRError: of one of them."""
        under_way: dict[Side, asyncio.Task[Found]] = {}
        asked: dict[Side, list[int]] = {side: [] for side in sides}
        parts = dict.fromkeys(sides, 0)
        try:
            while missing := [(side, row) for side in sides for row in self._missing(side)]:
                for side in sides:
                    if side not in under_way and (rows := self._next(side)):
                        asked[side] = rows
                        under_way[side] = asyncio.create_task(
                            in_chunks(partial(ask_about, side), rows, chunk_size, parts[side])
                        )
                        parts[side] += len(rows)  # numbers that no other part will have
                if not under_way:
                    raise next(self._failed[piece] for piece in missing if piece in self._failed)
                await asyncio.wait(under_way.values(), return_when=asyncio.FIRST_COMPLETED)
                for side in [side for side, task in under_way.items() if task.done()]:
                    try:
                        self._note(side, under_way.pop(side).result())
                    except XRError as error:
                        self._failed |= {(side, row): error for row in asked[side]}
                self._needed = self._look()
        finally:
            await stop_tasks(under_way.values())
        return {
            side: {row: self._found[side][row] for row in self._candidates.rows(self._mask(side))}
            for side in sides
        }

    def _look(self) -> Needed:
        known = self._known
        return needed_answers(
            self._candidates.head, known["image"], known["caption"], self._best, self._knobs
        )

    def _mask(self, side: Side) -> Mask:
        return self._needed.images if side == "image" else self._needed.captions

    def _missing(self, side: Side) -> list[int]:
        found = self._found[side]
        return [row for row in self._candidates.rows(self._mask(side)) if row not in found]

    def _next(self, side: Side) -> list[int]:
        """Whom to ask about next: those of whom it is certain that they matter, and a few more."""
        open_ = self._mask(side) & ~self._known[side].asked
        if side == "image":  # not before its caption, if that counts
            open_ &= self._known["caption"].asked | ~self._needed.captions
        front = self._needed.order[: self._needed.places + AHEAD]
        rows = [self._rows[place] for place in front if open_[place]]
        rows += [row for row in self._candidates.subset if row not in self._found[side]]
        return [row for row in dict.fromkeys(rows) if (side, row) not in self._failed]

    def _note(self, side: Side, answers: Found) -> None:
        self._found[side] |= answers
        table = verification_of(list(answers), list(answers.values()), len(self._expected))
        scores = verification_scores(table.table()[1], self._expected, self._knobs.scoring)[-1]
        known = self._known[side]
        for row, score in zip(answers, scores, strict=True):
            if row in self._place_of:
                known.scores[self._place_of[row]] = score
                known.asked[self._place_of[row]] = True


def _nothing_known(rows: Sequence[int]) -> Known:
    return Known(np.full(len(rows), np.nan), np.zeros(len(rows), dtype=bool))
