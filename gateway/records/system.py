"""The system as a whole: readiness, profiles, throughput."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from gateway.records.agents import AgentView, CoordinatorsView
from gateway.records.base import Record


class Readiness(Record):
    """Whether benchmarks would run now: Redis answers and each agent type has a living worker."""

    ready: bool
    reasons: list[str] = Field(default_factory=list, description="what is in the way, if anything")
    redis: bool
    draining: bool = Field(default=False, description="this gateway is about to stop")
    agents: dict[str, int] = Field(description="living workers by agent type")


class ProfileView(Record):
    """A profile: the models of all roles, and the knobs it sets."""

    name: str
    current: bool = Field(description="whether this gateway's runs use it by default")
    models: dict[str, dict[str, Any]] = Field(description="by name: backend, checkpoint, revision")
    roles: dict[str, str] = Field(description="role -> name of its model")
    knobs: dict[str, Any] = Field(default_factory=dict)


class ProfileList(Record):
    profiles: list[ProfileView]


class SearchLoad(Record):
    """Searches of this gateway, counted since its start."""

    running: int
    limit: int = Field(description="so many may run at once")
    answered: int
    refused: int = Field(description="429: too many at once")
    failed: int


class SystemView(Record):
    """Queues, workers and throughput now."""

    version: str
    profile: str
    agents: list[AgentView]
    coordinators: CoordinatorsView
    searches: SearchLoad
    runs: dict[str, int] = Field(description="state -> number of runs")
