"""The table of the overhead benchmark, and which of its targets were met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.runs import RunCost, Spent

MOST_CPU_MS = 10.0
MOST_WRITTEN_KB = 20.0
SAME_CPU_MS = 1.0
"""Costs that differ by no more count as independent of the gallery's size."""
SAME_MEMORY_MB = 8.0
"""Peaks that differ by no more count as the same: what allocators and the kernel round to."""

QUOTED_CPU_MS = {1_000: 35.0, 20_000: 315.0}
QUOTED_WRITTEN_KB = 1300.0
_QUOTED_NAME = "authors' script (quoted, not measured here)"


@dataclass(frozen=True)
class SizeCost:
    """What the runs over one gallery have cost; `run` is the one whose figures are shown."""

    images: int
    idle: Spent
    short: RunCost
    run: RunCost
    settings: dict[str, Any]

    @property
    def cpu_ms(self) -> dict[str, float]:
        """Process kind -> CPU milliseconds per query; "evaluation" is the coordinator's, at the end
        of the run."""
        per_query = 1000 / self.run.queries
        spent = {name: s * per_query for name, s in self.run.answering.processes.items()}
        return spent | {"evaluation": self.run.evaluation_s * per_query}

    @property
    def sum_ms(self) -> float:
        return sum(self.cpu_ms.values())

    @property
    def ranking_ms(self) -> float:
        return 1000 * self.run.answering.ranking / self.run.queries

    @property
    def models_ms(self) -> float:
        return 1000 * self.run.answering.models / self.run.queries

    @property
    def without_ranking_ms(self) -> float:
        return self.sum_ms - self.ranking_ms

    @property
    def further_ms(self) -> float:
        """What each further query adds, without ranking: the difference of the two runs."""
        more = self.run.queries - self.short.queries
        return 1000 * (_without_ranking_s(self.run) - _without_ranking_s(self.short)) / more

    @property
    def once_ms(self) -> float:
        """What a run costs beside its queries (finding rows by id, ending the process)."""
        return 1000 * _without_ranking_s(self.run) - self.further_ms * self.run.queries

    @property
    def idle_ms(self) -> float:
        """What the processes would have spent in the same time with nothing to do, per query."""
        rate = sum(self.idle.processes.values()) / self.idle.seconds
        return 1000 * rate * self.run.answering.seconds / self.run.queries

    @property
    def run_kb(self) -> float:
        """KB (10^3 bytes) per query in the run's folder."""
        return self.run.run_bytes / 1000 / self.run.queries

    @property
    def redis_kb(self) -> float:
        """KB per query in Redis's append-only file."""
        return self.run.redis_bytes / 1000 / self.run.queries

    @property
    def written_kb(self) -> float:
        return self.run_kb + self.redis_kb

    @property
    def kb_per_more_query(self) -> float:
        """By how much the coordinator's peak grows with each query of the run."""
        more = self.run.queries - self.short.queries
        return (self.run.peak_mb - self.short.peak_mb) * 1000 / more


def _without_ranking_s(run: RunCost) -> float:
    spent = run.answering
    return sum(spent.processes.values()) + run.evaluation_s - spent.ranking


@dataclass(frozen=True)
class Verdict:
    """One target, what was measured, and whether it was met."""

    target: str
    measured: str
    met: bool


def judge(costs: Sequence[SizeCost]) -> list[Verdict]:
    """Every target, over all sizes."""
    sums = [cost.without_ranking_ms for cost in costs]
    further = [cost.further_ms for cost in costs]
    written = [cost.written_kb for cost in costs]
    peaks = [cost.run.peak_mb for cost in costs]
    growth = [cost.run.peak_mb - cost.short.peak_mb for cost in costs]
    verdicts = [
        Verdict(
            f"CPU per query without ranking <= {MOST_CPU_MS:g} ms",
            f"{max(sums):.1f} ms",
            max(sums) <= MOST_CPU_MS,
        ),
        Verdict(
            f"CPU of each further query independent of the gallery (within {SAME_CPU_MS:g} ms)",
            f"{min(further):.1f} to {max(further):.1f} ms without ranking",
            max(further) - min(further) <= SAME_CPU_MS,
        ),
        Verdict(
            f"coordinator memory independent of the queries (within {SAME_MEMORY_MB:g} MB)",
            f"{max(growth):+.1f} MB ({costs[0].short.queries} -> {costs[0].run.queries} queries)",
            max(growth) <= SAME_MEMORY_MB,
        ),
        Verdict(
            f"coordinator memory independent of the gallery (within {SAME_MEMORY_MB:g} MB)",
            f"{min(peaks):.0f} to {max(peaks):.0f} MB",
            max(peaks) - min(peaks) <= SAME_MEMORY_MB,
        ),
        Verdict(
            f"written per query <= {MOST_WRITTEN_KB:g} KB",
            f"{max(written):.1f} KB, {max(cost.run_kb for cost in costs):.1f} of them in the run's"
            " folder, the others in Redis's append-only file",
            max(written) <= MOST_WRITTEN_KB,
        ),
    ]
    return verdicts if len(costs) > 1 else [v for v in verdicts if "the gallery" not in v.target]


def table(costs: Sequence[SizeCost], verdicts: Sequence[Verdict]) -> str:
    """Everything for reading."""
    rows: list[tuple[str, list[str]]] = [("images", [f"{cost.images:,}" for cost in costs])]
    rows += [
        (f"{name}, ms CPU per query", _numbers(cost.cpu_ms[name] for cost in costs))
        for name in costs[0].cpu_ms
    ]
    rows += [
        ("sum", _numbers(cost.sum_ms for cost in costs)),
        ("  of which ranking", _numbers(cost.ranking_ms for cost in costs)),
        ("  of which zero-cost models", _numbers(cost.models_ms for cost in costs)),
        ("  of which an idle system's", _numbers(cost.idle_ms for cost in costs)),
        ("sum without ranking", _numbers(cost.without_ranking_ms for cost in costs)),
        (
            "sum without ranking and models",
            _numbers(cost.without_ranking_ms - cost.models_ms for cost in costs),
        ),
        ("each further query, without ranking", _numbers(cost.further_ms for cost in costs)),
        ("  once per run, ms in all", _numbers(cost.once_ms for cost in costs)),
        (f"{_QUOTED_NAME}, ms", [_quoted(QUOTED_CPU_MS.get(cost.images)) for cost in costs]),
        ("written per query, KB", _numbers(cost.written_kb for cost in costs)),
        ("  the run's folder", _numbers(cost.run_kb for cost in costs)),
        ("  Redis's append-only file", _numbers(cost.redis_kb for cost in costs)),
        (f"{_QUOTED_NAME}, KB", [f"{QUOTED_WRITTEN_KB:.1f}"] * len(costs)),
        ("coordinator's peak memory, MB", _numbers(cost.run.peak_mb for cost in costs)),
        ("  until the last query", _numbers(cost.run.answering_peak_mb for cost in costs)),
        (
            f"  of a run of {costs[0].short.queries} queries",
            _numbers(cost.short.peak_mb for cost in costs),
        ),
        ("  more with each query, KB", _numbers(cost.kb_per_more_query for cost in costs)),
        ("queries", [str(cost.run.queries) for cost in costs]),
        (
            "queries per second",
            _numbers(cost.run.queries / cost.run.answering.seconds for cost in costs),
        ),
    ]
    width = max(len(title) for title, _ in rows)
    lines = [
        f"{title:<{width}} {''.join(f'{cell:>10}' for cell in cells)}" for title, cells in rows
    ]
    lines += ["", *(f"{'met' if v.met else 'MISSED':<7}{v.target}: {v.measured}" for v in verdicts)]
    return "\n".join(lines)


def _numbers(values: Any) -> list[str]:
    return [f"{value:.1f}" for value in values]


def _quoted(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
