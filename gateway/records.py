"""What the HTTP API takes and gives, for the server, its OpenAPI description, and the client."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from shared.knob_descriptions import json_schema

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
    knobs: Annotated[
        dict[str, Any], WithJsonSchema({**json_schema(), "examples": [{"top_k": 50}]})
    ] = Field(default_factory=dict)
    limit: Annotated[int | None, Field(ge=1, description="only the first so many queries")] = None
    restore: Annotated[
        str, Field(max_length=300, description="id of a run whose findings this one begins with")
    ] = ""
    skip_stages: Annotated[
        int, Field(ge=0, le=4, description="how many steps of that run are taken over")
    ] = 0
    index_only: Annotated[bool, Field(description="build the image database and ask no query")] = (
        False
    )
    retry_failed: Annotated[
        bool, Field(description="first ask again for the database's rows that failed")
    ] = False
    read_images_again: Annotated[
        bool, Field(description="read image files that are known and unchanged, too")
    ] = False


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
    intervals: dict[str, dict[str, list[float]]] = Field(
        default_factory=dict, description="by method and metric: bounds of the 95 % interval"
    )
    deviations: list[str] = Field(
        default_factory=list, description="where the run differs from the official protocol"
    )
    counts: dict[str, int] = Field(
        default_factory=dict, description="queries, failed, fallbacks and the like"
    )
    run_folder: str = ""
    error: str = ""
    submitted_at: str = ""


class SubmissionList(Record):
    """The files for evaluation servers a run has written; each can be fetched by its name."""

    benchmark_id: str
    submissions: list[str]


class BenchmarkList(Record):
    """Known runs, newest first."""

    benchmarks: list[BenchmarkView]


class WorkerView(Record):
    """One living worker of an agent, as its last heartbeat has it; counts are since its start."""

    worker: str
    ready: bool = Field(description="whether a real item passed through its model lately")
    in_flight: int
    busy_share: float = Field(description="of the last half minute, in [0, 1]")
    batch_fill: float = Field(description="messages per batch, as a share of the largest batch")
    counts: dict[str, int] = Field(
        default_factory=dict, description="answered, failures, batches, redelivered and the like"
    )
    caches: dict[str, tuple[int, int]] = Field(
        default_factory=dict, description="hits and misses of its process's caches, by name"
    )


class AgentView(Record):
    """One agent type: its living workers and its queue."""

    agent: str
    workers: list[str]
    waiting: int
    pending: int
    dead: int
    parked: int = 0
    oldest_age_s: float = Field(
        default=0.0, description="how long the oldest message without an answer has waited"
    )
    details: list[WorkerView] = Field(default_factory=list)


class CoordinatorView(Record):
    """One coordinator process: idle, or busy with a run, and when it last said so."""

    name: str
    state: str
    heartbeat_age_s: float
    benchmark_id: str = ""


class CoordinatorsView(Record):
    """The queue of benchmark jobs and those who take them."""

    waiting: int = Field(description="jobs in the queue")
    delayed: int = Field(default=0, description="failed ones that are tried again after a pause")
    coordinators: list[CoordinatorView] = Field(default_factory=list)


class AgentList(Record):
    agents: list[AgentView]
    coordinators: CoordinatorsView | None = None


class DeadLetterView(Record):
    """A message that was given up: why, and what it asked."""

    entry_id: str
    reason: str
    deliveries: int = 0
    job_id: str = ""
    query_id: str = ""
    skill: str = Field(default="", description="what was asked of the agent; empty = unreadable")
    at: str = Field(default="", description="when it was given up, ISO 8601, UTC")
    size_bytes: int = 0
    message: dict[str, Any] = Field(
        default_factory=dict, description="the whole message for reading, long values cut"
    )


class DeadLetterList(Record):
    agent: str
    dead_letters: list[DeadLetterView]


class Readiness(Record):
    """Whether benchmarks would run now: Redis answers, and a coordinator and a worker of each agent
    type live."""

    ready: bool
    reasons: list[str] = Field(default_factory=list, description="what is in the way, if anything")
    redis: bool
    draining: bool = Field(default=False, description="this gateway is about to stop")
    coordinators: int = Field(description="living coordinators")
    agents: dict[str, int] = Field(description="living workers by agent type")


class SearchRequest(Record):
    """One search: a reference image of an indexed gallery, and the change wanted."""

    modification_text: Annotated[str, Field(min_length=1, max_length=10_000)]
    gallery: Annotated[
        str, Field(max_length=100, description="key of a gallery; its latest database is searched")
    ] = ""
    database: Annotated[str, Field(max_length=100, description="or the key of a database")] = ""
    reference_id: Annotated[
        str | None,
        Field(max_length=10_000, description="the image to be changed; none = by the text alone"),
    ] = None
    k: Annotated[int, Field(ge=1, le=1_000, description="how many images are returned")] = 10
    knobs: dict[str, Any] = Field(default_factory=dict, examples=[{"top_k": 30}])
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 60.0


class SearchHit(Record):
    """One image found. The answers are P(yes) per proposition; none = it was not checked."""

    rank: int
    image_id: str
    coarse_score: float | None = None
    image_answers: list[float] | None = None
    caption_answers: list[float] | None = None
    comparison: float | None = None


class SearchView(Record):
    """What was found, best first, and what led there."""

    gallery: str
    database: str
    stage: str = Field(description="the last stage that ran: coarse, verified or compared")
    hits: list[SearchHit]
    captions: list[str] = Field(description="the imagined target in words")
    propositions: list[tuple[str, bool]] = Field(
        description="the questions candidates were checked by, and the answer expected"
    )
    fallbacks: list[str] = Field(default_factory=list, description="skills with unusable answers")
    seconds: float


class Problem(BaseModel):
    """An error as RFC 9457 describes it; further members say more about some types."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str = ""
    request_id: str = ""
