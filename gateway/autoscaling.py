"""How many replicas an agent should have: the arithmetic KEDA applies, on the same figures."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

LAG_PER_REPLICA = 64
"""Messages waiting that one replica may have before it: `lagCount` of the scalers in k8s/."""
PENDING_PER_REPLICA = 32
"""Messages in hand that occupy one replica: `pendingEntriesCount` of the scalers in k8s/."""
COOL_DOWN_S = 120.0
"""So long fewer must have been enough before any is taken away."""


@dataclass(frozen=True)
class Bounds:
    """Least and most replicas of a service."""

    least: int
    most: int


def replicas_for(waiting: int, pending: int, bounds: Bounds) -> int:
    """The larger of what the waiting and what the pending messages call for, within bounds."""
    called_for = max(math.ceil(waiting / LAG_PER_REPLICA), math.ceil(pending / PENDING_PER_REPLICA))
    return min(max(called_for, bounds.least), bounds.most)


@dataclass
class Autoscaler:
    """Of one service: up at once, down after the cool-down and no further than was needed in it."""

    bounds: Bounds
    cool_down_s: float = COOL_DOWN_S
    _called_for: list[tuple[float, int]] = field(default_factory=list)

    def wanted(self, now_s: float, current: int, waiting: int, pending: int) -> int:
        """Replicas to have now. Call it again and again; `now_s` never goes back."""
        called_for = replicas_for(waiting, pending, self.bounds)
        self._called_for.append((now_s, called_for))
        began_s = self._called_for[0][0]
        recent = [entry for entry in self._called_for if entry[0] >= now_s - self.cool_down_s]
        # One older entry stays, so that it is known whether the whole cool-down was watched.
        self._called_for = [(began_s, recent[0][1]), *recent] if began_s < recent[0][0] else recent
        if called_for >= current:
            return called_for
        watched_long_enough = now_s - began_s >= self.cool_down_s
        return min(current, max(count for _, count in recent)) if watched_long_enough else current
