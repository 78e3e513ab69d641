"""What answering a run's requests has cost, by agent, summed over all its owners: costs.json.

It lies beside metrics.json and not in it: metrics follow from the recorded answers and are the same
bytes every time, costs depend on caches, batches and crashes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from broker.run_store import COSTS, read_json
from shared import atomic_files
from shared.errors import PermanentError

Spent = Mapping[str, Mapping[str, float]]
"""Agent -> name of a cost -> how much; names as in `ReplyMessage.spent`."""

_HITS, _MISSES = "cache_hits", "cache_misses"


class RunCosts:
    """The owner's hand on costs.json."""

    def __init__(self, runs_folder: Path, run_id: str, folder: Path) -> None:
        """Former owners' costs count; a file that can't be read is begun anew."""
        self._former = read_costs(runs_folder, run_id)
        self._path = folder / COSTS
        self._written: Any = None

    def write(self, spent: Spent) -> dict[str, Any]:
        """Former and present costs together. Raises: OSError."""
        costs = summary(added(self._former, spent))
        if costs != self._written:
            atomic_files.write_json(self._path, costs)
            self._written = costs
        return costs


def read_costs(runs_folder: Path, run_id: str) -> dict[str, dict[str, float]]:
    """The costs written so far, by agent; empty where there are none or the file is damaged."""
    try:
        written = (read_json(runs_folder, run_id, COSTS) or {}).get("agents", {})
        return msgspec.convert(written, dict[str, dict[str, float]])
    except (PermanentError, msgspec.ValidationError):
        return {}


def added(some: Spent, others: Spent) -> dict[str, dict[str, float]]:
    """Sums by agent and name."""
    total = {agent: dict(costs) for agent, costs in some.items()}
    for agent, costs in others.items():
        of_agent = total.setdefault(agent, {})
        for name, amount in costs.items():
            of_agent[name] = of_agent.get(name, 0) + amount
    return total


def summary(spent: Spent) -> dict[str, Any]:
    """The costs by agent and in all, and the share of answers found in the answer cache."""
    agents = {
        agent: {name: _plain(amount) for name, amount in sorted(costs.items())}
        for agent, costs in sorted(spent.items())
    }
    total: dict[str, float] = {}
    for costs in agents.values():
        for name, amount in costs.items():
            total[name] = _plain(total.get(name, 0) + amount)
    looked_up = total.get(_HITS, 0) + total.get(_MISSES, 0)
    hit_rate = round(total.get(_HITS, 0) / looked_up, 4) if looked_up else None
    return {"agents": agents, "total": dict(sorted(total.items())), "cache_hit_rate": hit_rate}


def costs_line(costs: Mapping[str, Any]) -> str:
    """One line for the log."""
    shown = ", ".join(f"{name} {amount:g}" for name, amount in costs["total"].items())
    rate = costs["cache_hit_rate"]
    return f"costs: {shown or 'none told'}" + (
        "" if rate is None else f"; {rate:.1%} of answers cached"
    )


def _plain(amount: float) -> float:
    return int(amount) if amount == int(amount) else round(amount, 6)
