"""How many background requests an engine is given at once: hardly any while it answers a person."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

_BESIDE_A_PERSON = 64
"""The budget is divided by this meanwhile; a narrow one lets in nobody."""


class RequestBudget:
    """Lets background requests in, first come first served. Used from one event loop only.

    An engine works on all it has been given in steps, and a person's request waits for one step a
    token: a priority in the engine's queue does not help against what shares the steps. So while a
    person's request is under way, hardly any other is let in; those that are in are finished.
    """

    def __init__(self, most: int) -> None:
        """`most`: background requests at once while nobody waits."""
        self._most = most
        self._under_way = 0
        self._people = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @contextmanager
    def for_a_person(self) -> Iterator[None]:
        """A person's request, which is let in at once."""
        self._people += 1
        try:
            yield
        finally:
            self._people -= 1
            self._admit()

    @asynccontextmanager
    async def in_background(self) -> AsyncIterator[None]:
        """Any other request; waits for its turn."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._admit()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._under_way -= 1
                self._admit()

    def _admit(self) -> None:
        most = self._most // _BESIDE_A_PERSON if self._people else self._most
        while self._waiting and self._under_way < most:
            turn = self._waiting.popleft()
            if not turn.done():  # who was cancelled has left
                turn.set_result(None)
                self._under_way += 1
