"""Agents, their queues and what was given up; coordinators and their queue."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from gateway.records.base import Record


class WorkerView(Record):
    """One living worker of an agent, as its last heartbeat has it; counts are since its start."""

    worker: str
    ready: bool = Field(description="whether a real item passed through its model lately")
    in_flight: int
    model: str = Field(default="", description="the checkpoint, or what it says of itself")
    busy_share: float = Field(description="of the last half minute, in [0, 1]")
    batch_fill: float = Field(description="messages per batch, as a share of the largest batch")
    counts: dict[str, int] = Field(
        default_factory=dict, description="answered, failures, batches, redelivered and the like"
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
    answered_per_s: float | None = Field(
        default=None, description="since this gateway was asked before; null the first time"
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
