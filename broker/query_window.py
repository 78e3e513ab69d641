"""Many queries under way at once, none waiting for another's stage; each durable once answered."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

from broker.agents_client import AgentsUnreachableError
from broker.query_state import QueryState
from shared.datasets import Query
from shared.dialogues import chains
from shared.errors import TransientError, XRError
from shared.logs import about
from shared.tasks import stop_tasks
from shared.tracing import span

logger = logging.getLogger(__name__)


async def run_queries(
    queries: Iterable[Query],
    window: int,
    answer: Callable[[Query], Awaitable[QueryState]],
    record: Callable[[QueryState], Awaitable[None]],
    progress: Callable[[QueryState], None],
    cancelled: asyncio.Event,
) -> None:
    """Answer all queries, at most `window` of them under way at a time.

    A query that cannot be answered is recorded as failed, with the reason, and the others go on.
    The rounds of a dialogue are answered one after the other, each once the one before is recorded,
    answered or failed; dialogues do not wait for each other.

    Args:
        answer: one query's answer; what it raises becomes the reason of the failed state.
        record: returns once the state is durable; its errors end the run.
        progress: told of every recorded state.
        cancelled: when set, no query is begun and those under way are dropped.
    Raises:
        AgentsUnreachableError: there is no connection to the agents any more.
        OSError: nothing can be recorded.
    """
    waiting = iter(chains(list(queries)))
    lanes = [
        asyncio.create_task(_answer_one_by_one(waiting, answer, record, progress))
        for _ in range(window)
    ]
    stop = asyncio.create_task(cancelled.wait())
    try:
        unfinished = set(lanes)
        while unfinished and not cancelled.is_set():
            done, _ = await asyncio.wait({*unfinished, stop}, return_when=asyncio.FIRST_COMPLETED)
            unfinished -= done
            for lane in done - {stop}:
                lane.result()
    finally:
        await stop_tasks((*lanes, stop))


async def _answer_one_by_one(
    waiting: Iterator[Sequence[Query]],
    answer: Callable[[Query], Awaitable[QueryState]],
    record: Callable[[QueryState], Awaitable[None]],
    progress: Callable[[QueryState], None],
) -> None:
    for query in itertools.chain.from_iterable(waiting):
        with about(query=query.query_id), span("query", **{"xr.query": query.query_id}):
            state = await _answer_or_failure(query, answer)
            await record(state)
        progress(state)


async def _answer_or_failure(
    query: Query, answer: Callable[[Query], Awaitable[QueryState]]
) -> QueryState:
    try:
        return await answer(query)
    except AgentsUnreachableError:
        raise
    except TransientError as error:
        return _failed(query, str(error), unanswered=True)
    except XRError as error:
        return _failed(query, str(error))
    except Exception as error:  # a bug in one query's path must not lose the others
        logger.exception("query %s failed unexpectedly", query.query_id)
        return _failed(query, f"unexpected {type(error).__name__}: {error}")


def _failed(query: Query, reason: str, unanswered: bool = False) -> QueryState:
    logger.warning("query %s failed: %s", query.query_id, reason)
    return QueryState(
        query_id=query.query_id, status="failed", reason=reason, unanswered=unanswered
    )
