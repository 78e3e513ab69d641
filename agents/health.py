"""What an agent process says about its own health: truthfully, also when parts of it are stuck."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from agents.engine import Engine
from shared.bus.consumer import Consumer

_LOOP_MAY_STAND_STILL_S = 15.0
_TURN_S = 0.5


class Health:
    """Facts for the probes; read by threads other than the event loop's.

    Attributes:
        consumers: the loops that take messages, once they do.
        spent: by agent, what answering has cost.

    Args:
        canary_s: an item should pass the model at least this often; 0 = nobody looks.
    """

    def __init__(self, engine: Engine, canary_s: float) -> None:
        self.consumers: Sequence[Consumer] = ()
        self.spent: Mapping[str, Counter[str]] = {}
        self._engine = engine
        self._canary_s = canary_s
        self._runs: Sequence[asyncio.Task[None]] = ()
        self._loading = True
        self._stopping = False
        self._turned_s = time.monotonic()

    async def note_turns(self) -> None:
        """Runs on the event loop as long as that turns."""
        while True:
            self._turned_s = time.monotonic()
            await asyncio.sleep(_TURN_S)

    def serving(self, consumers: Sequence[Consumer], runs: Sequence[asyncio.Task[None]]) -> None:
        """The models are loaded, and these loops take messages."""
        self.consumers, self._runs, self._loading = consumers, runs, False

    def stopping(self) -> None:
        """The loops take no more messages, and end."""
        self._stopping = True

    @property
    def loop_still_for_s(self) -> float:
        """How long ago the event loop last turned."""
        return time.monotonic() - self._turned_s

    def why_not_alive(self) -> list[str]:
        """Empty, or why only a restart helps."""
        reasons = []
        if self.loop_still_for_s > _LOOP_MAY_STAND_STILL_S:
            reasons.append(f"the event loop has stood still for {self.loop_still_for_s:.0f} s")
        if not self._stopping:
            reasons += [
                f"the loop of the {consumer.agent} agent has ended"
                for consumer, run in zip(self.consumers, self._runs, strict=True)
                if run.done()
            ]
        return reasons

    def why_not_ready(self) -> list[str]:
        """Empty, or why no work should be expected of this process now."""
        if self._loading:
            return ["the models are being loaded"]
        if self._stopping:
            return ["stopping"]
        reasons = [*self.why_not_alive(), *self.why_model_not_ready()]
        if any(consumer.redis_is_away for consumer in self.consumers):
            reasons.append("Redis is away")
        return reasons

    def why_model_not_ready(self) -> list[str]:
        """Empty, or what is wrong with the model."""
        engine = self._engine
        if engine.is_hung:
            return [f"a batch has taken {engine.busy_for_s:.0f} s, limit {engine.limit_s:g} s"]
        if self._canary_s and not engine.busy_for_s and engine.idle_for_s > 2 * self._canary_s:
            return [f"no item has passed the model for {engine.idle_for_s:.0f} s"]
        return []
