"""What the HTTP API takes and gives, for the server, its OpenAPI description, and the client."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

RunState = Literal["queued", "running", "finished", "failed", "cancelled"]
TERMINAL_STATES: frozenset[RunState] = frozenset({"finished", "failed", "cancelled"})


class Record(BaseModel):
    """Base of all records: immutable, and a field nobody knows is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BenchmarkRequest(Record):
    """One benchmark to run: a data set's split, and the knobs that differ from the defaults."""

    dataset: Annotated[str, Field(min_length=1, max_length=100, examples=["demo"])]
    split: Annotated[str, Field(min_length=1, max_length=50, examples=["val"])]
    name: Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9._-]*$")] = ""
    knobs: dict[str, Any] = Field(default_factory=dict, examples=[{"top_k": 50}])
    limit: Annotated[int | None, Field(ge=1, description="only the first so many queries")] = None


class PhaseProgress(Record):
    """How far one phase of a run is. `seconds` is its wall time so far."""

    phase: str
    done: int
    total: int
    failed: int = 0
    rate_per_s: float = 0.0
    seconds: float = 0.0


class BenchmarkView(Record):
    """One run as the API shows it. `metrics` and `counts` are there once it has finished."""

    id: str
    dataset: str
    split: str
    name: str
    state: RunState
    phase: str = ""
    note: str = Field(default="", description="what the run waits for, if anything")
    progress: list[PhaseProgress] = Field(default_factory=list)
    metrics: dict[str, dict[str, float]] = Field(
        default_factory=dict, description="by method: metric name -> value in [0, 1]"
    )
    counts: dict[str, int] = Field(
        default_factory=dict, description="queries, failed, fallbacks and the like"
    )
    run_folder: str = ""
    error: str = ""
    submitted_at: str = ""


class BenchmarkList(Record):
    """Known runs, newest first."""

    benchmarks: list[BenchmarkView]


class AgentView(Record):
    """One agent type: its living workers and its queue."""

    agent: str
    workers: list[str]
    waiting: int
    pending: int
    dead: int


class AgentList(Record):
    agents: list[AgentView]


class DeadLetterView(Record):
    """A message that was given up: why, and what it asked."""

    entry_id: str
    reason: str
    message: dict[str, Any] = Field(default_factory=dict)


class DeadLetterList(Record):
    agent: str
    dead_letters: list[DeadLetterView]


class Readiness(Record):
    """Whether benchmarks would run now: Redis answers and each agent type has a living worker."""

    ready: bool
    redis: bool
    agents: dict[str, int] = Field(description="living workers by agent type")


class Problem(BaseModel):
    """An error as RFC 9457 describes it; further members say more about some types."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str = ""
    request_id: str = ""
