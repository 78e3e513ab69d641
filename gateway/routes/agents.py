"""Agents over HTTP: who is alive, how long the queues are, and what was given up."""

from __future__ import annotations

from typing import get_args

from fastapi import APIRouter

from gateway.access import needs
from gateway.errors import OF_EVERY_ROUTE, ApiError, problems
from gateway.ports import ServicesDependency
from gateway.records import AgentList, DeadLetterList
from shared.contracts.skills import AgentName

router = APIRouter(
    prefix="/v1/agents",
    tags=["agents"],
    dependencies=[needs("read")],
    responses=problems(*OF_EVERY_ROUTE),
)


@router.get("")
async def list_agents(services: ServicesDependency) -> AgentList:
    """Every agent type with its living workers and its queue; and the coordinators with theirs."""
    return AgentList(
        agents=await services.board.agents(),
        coordinators=await services.benchmarks.coordinators(),
    )


@router.get("/{agent}/dead-letters", responses=problems(404))
async def list_dead_letters(agent: str, services: ServicesDependency) -> DeadLetterList:
    """Messages that were given up, oldest first."""
    _check_known(agent)
    return DeadLetterList(agent=agent, dead_letters=await services.board.dead_letters(agent))


@router.post(
    "/{agent}/dead-letters/retry",
    status_code=202,
    dependencies=[needs("admin")],
    responses=problems(404),
)
async def retry_all_dead_letters(agent: str, services: ServicesDependency) -> DeadLetterList:
    """Queue every dead letter there is now again; answers with those that are left."""
    _check_known(agent)
    for letter in await services.board.dead_letters(agent):
        await services.board.retry(agent, letter.entry_id)
    return DeadLetterList(agent=agent, dead_letters=await services.board.dead_letters(agent))


@router.post(
    "/{agent}/dead-letters/{entry_id}/retry",
    status_code=202,
    dependencies=[needs("admin")],
    responses=problems(404),
)
async def retry_dead_letter(
    agent: str, entry_id: str, services: ServicesDependency
) -> DeadLetterList:
    """Queue a dead letter again; answers with those that are left."""
    _check_known(agent)
    if not await services.board.retry(agent, entry_id):
        detail = f"agent {agent} has no dead letter {entry_id!r}"
        raise ApiError(404, "unknown-dead-letter", detail)
    return DeadLetterList(agent=agent, dead_letters=await services.board.dead_letters(agent))


def _check_known(agent: str) -> None:
    known = get_args(AgentName)
    if agent not in known:
        detail = f"no agent is called {agent!r}; known: {', '.join(known)}"
        raise ApiError(404, "unknown-agent", detail, known=list(known))
