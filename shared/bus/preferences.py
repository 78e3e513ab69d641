"""Requests that are better left to another consumer: it has worked on their images before."""

from __future__ import annotations

import time

from redis.exceptions import RedisError

from shared.bus.claims import INTERACTIVE, Claims, Taken
from shared.bus.connection import will_pass
from shared.contracts.messages import preferred_consumer

_SHELF_HOLDS = 32
"""Above that many left to one consumer, whoever is free works on more of its requests."""
_LATELY_S = 30.0


class Preferences:
    """What one consumer leaves to others, and whether others may leave something to it.

    A request that names another consumer is put on that one's shelf, if it lives, its shelf has
    room and Redis takes it; else it is worked on here. Nothing is left twice: what lapses on a
    shelf, as its consumer has died or is slow, goes to whoever looks next. A person's request waits
    for nobody.

    Attributes:
        left: requests left to others.
    """

    def __init__(self, claims: Claims, consumer: str) -> None:
        self._claims, self._consumer = claims, consumer
        self._until_s = 0.0
        self.left = 0

    @property
    def lately(self) -> bool:
        """Whether requests with a preference have come lately, so that our shelf may fill."""
        return time.monotonic() < self._until_s

    async def leave(self, taken: Taken) -> Taken:
        """What is for us to work on, of what was newly taken."""
        preferred = [
            (claim, consumer)
            for claim in taken.claims
            if claim.stream != INTERACTIVE and (consumer := preferred_consumer(claim.payload))
        ]
        if not preferred:
            return taken
        self._until_s = time.monotonic() + _LATELY_S
        others = [(claim, consumer) for claim, consumer in preferred if consumer != self._consumer]
        if not others:
            return taken
        try:
            left = set(await self._claims.leave(others, _SHELF_HOLDS))
        except RedisError as error:
            if not will_pass(error):
                raise
            return taken  # what has been left all the same is answered too late, and not recorded
        self.left += len(left)
        return taken._replace(claims=[claim for claim in taken.claims if claim not in left])
