"""Benchmarks: what is asked for, how far it is, and what became of each query."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from gateway.records.base import Page, Record
from gateway.records.evidence import Evidence
from shared.knob_descriptions import json_schema

RunState = Literal["queued", "running", "finished", "failed", "cancelled"]
TERMINAL_STATES: frozenset[RunState] = frozenset({"finished", "failed", "cancelled"})


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
    owner: str = Field(default="", description="id of the API key it was submitted with")


class SubmissionList(Record):
    """The files for evaluation servers a run has written; each can be fetched by its name."""

    benchmark_id: str
    submissions: list[str]


class BenchmarkList(Page):
    """Known runs, newest first."""

    benchmarks: list[BenchmarkView]


class QuerySummary(Record):
    """One query of a run, and how far up each stage has its best target."""

    query_id: str
    status: Literal["ok", "failed", "missing"]
    reason: str = Field(default="", description="why it failed")
    reference_image_id: str | None = None
    modification_text: str = ""
    target_image_ids: list[str] = Field(default_factory=list)
    ranks: dict[str, int | None] = Field(
        default_factory=dict,
        description="by stage: rank of the best target; null = beyond what the stage ranks",
    )
    fallbacks: list[str] = Field(default_factory=list)


class QueryList(Page):
    """Queries of a run; `stages` are those that `ranks` may be asked for."""

    benchmark_id: str
    gallery: str = ""
    stages: list[str] = Field(default_factory=list)
    queries: list[QuerySummary]


class TargetRanks(Record):
    """Where one target stands, by stage; null = beyond what the stage ranks."""

    image_id: str
    ranks: dict[str, int | None]


class QueryView(Evidence):
    """One query of a run with all its evidence, from the state that was recorded."""

    query_id: str
    reference_image_id: str | None = None
    modification_text: str
    earlier_texts: list[str] = Field(
        default_factory=list, description="of the rounds before, where it is part of a dialogue"
    )
    targets: list[TargetRanks] = Field(default_factory=list)
    stages: dict[str, list[str]] = Field(
        default_factory=dict, description="by stage: the best image ids"
    )


class RunSummary(Record):
    """One run in short."""

    id: str
    dataset: str
    split: str
    name: str
    state: RunState
    submitted_at: str = ""
    metrics: dict[str, float] = Field(default_factory=dict, description="of the last stage")
    counts: dict[str, int] = Field(default_factory=dict)


class RunList(Page):
    """All runs on the shared volume, newest first."""

    runs: list[RunSummary]


class RunDetails(Record):
    """Everything a run's folder says of it in the large."""

    benchmark: BenchmarkView
    manifest: dict[str, Any] = Field(
        default_factory=dict, description="knobs, models, prompts, versions, seed, protocol"
    )
    results: dict[str, Any] = Field(
        default_factory=dict,
        description="metrics.json: methods, intervals, ranks, rounds, by_tag, counts, failures",
    )


class PairedMetric(Record):
    """One metric of the last stage in both runs, query by query."""

    first: float
    second: float
    difference: float
    low: float = Field(description="lower bound of the difference's 95 % interval")
    high: float
    better: int = Field(description="queries on which the second run has more")
    worse: int
    p_sign: float = Field(description="two-sided exact sign test of better against worse")


class ChangedQuery(Record):
    """A query that one run hits within the first k and the other misses."""

    query_id: str
    modification_text: str
    first_rank: int | None
    second_rank: int | None


class RunComparison(Record):
    """Two runs of one data set, side by side."""

    first: str
    second: str
    manifest: dict[str, tuple[Any, Any]] = Field(description="entries in which they differ")
    environment: dict[str, tuple[Any, Any]]
    metrics: dict[str, tuple[float, float]]
    paired: dict[str, PairedMetric]
    k: int = Field(description="what counts as a hit in `gained` and `lost`")
    gained: list[ChangedQuery]
    lost: list[ChangedQuery]
    identical: bool = Field(description="whether the predictions are the same bytes")
    first_difference: str
