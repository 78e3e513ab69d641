"""The window: how many queries are under way, and that one's failure is nobody else's."""

from __future__ import annotations

import asyncio

import pytest

from broker.agents_client import AgentsUnreachableError
from broker.query_state import QueryState
from broker.query_window import run_queries
from shared.datasets import Query
from shared.errors import ItemError, TransientError

QUERIES = [
    Query(query_id=str(n), reference_id=None, modification_text="x", target_ids=())
    for n in range(10)
]


async def run(answer, record=None, window=3, cancelled=None):  # type: ignore[no-untyped-def]
    recorded: dict[str, QueryState] = {}

    async def keep(state: QueryState) -> None:
        recorded[state.query_id] = state

    await run_queries(
        QUERIES, window, answer, record or keep, lambda state: None, cancelled or asyncio.Event()
    )
    return recorded


def ok(query: Query) -> QueryState:
    return QueryState(query_id=query.query_id, status="ok")


async def test_no_more_queries_than_the_window_are_under_way_and_all_are_answered() -> None:
    under_way, most = 0, 0

    async def answer(query: Query) -> QueryState:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return ok(query)

    recorded = await run(answer)
    assert most == 3
    assert set(recorded) == {query.query_id for query in QUERIES}


async def test_a_slow_query_holds_nobody_up() -> None:
    others_done = asyncio.Event()
    done = 0

    async def answer(query: Query) -> QueryState:
        nonlocal done
        if query.query_id == "0":
            await others_done.wait()
        else:
            done += 1
            if done == len(QUERIES) - 1:
                others_done.set()
        return ok(query)

    assert len(await asyncio.wait_for(run(answer), 5)) == len(QUERIES)


async def test_a_failing_query_is_recorded_with_its_reason_and_the_others_are_answered() -> None:
    async def answer(query: Query) -> QueryState:
        errors = {
            "2": ItemError("no caption"),
            "4": TransientError("no answer"),
            "6": KeyError("k"),
        }
        if query.query_id in errors:
            raise errors[query.query_id]
        return ok(query)

    recorded = await run(answer)
    failed = {id_: state for id_, state in recorded.items() if state.status == "failed"}
    assert {id_: (state.reason, state.unanswered) for id_, state in failed.items()} == {
        "2": ("no caption", False),
        "4": ("no answer", True),
        "6": ("unexpected KeyError: 'k'", False),
    }
    assert len(recorded) == len(QUERIES)


async def test_losing_the_agents_or_the_disk_ends_the_run_instead_of_failing_every_query() -> None:
    async def lost(query: Query) -> QueryState:
        raise AgentsUnreachableError("gone")

    with pytest.raises(AgentsUnreachableError):
        await run(lost)

    async def full(state: QueryState) -> None:
        raise OSError("no space left")

    async def answer(query: Query) -> QueryState:
        return ok(query)

    with pytest.raises(OSError, match="no space"):
        await run(answer, full)


async def test_cancelling_drops_what_is_under_way_and_begins_nothing_more() -> None:
    cancelled = asyncio.Event()
    begun: list[str] = []

    async def answer(query: Query) -> QueryState:
        begun.append(query.query_id)
        if query.query_id == "4":
            cancelled.set()
        if int(query.query_id) >= 4:
            await asyncio.Event().wait()
        return ok(query)

    recorded = await asyncio.wait_for(run(answer, cancelled=cancelled), 5)
    assert set(recorded) == {"0", "1", "2", "3"}
    assert len(begun) <= 7


def rounds(dialogue: str, count: int) -> list[Query]:
    return [
        Query(
            query_id=f"{dialogue}{n}", reference_id=None, modification_text="x", target_ids=(),
            dialogue_id=dialogue, round=n, previous_id=f"{dialogue}{n - 1}" if n else "",
        )
        for n in range(count)
    ]  # fmt: skip


async def test_a_round_begins_when_the_one_before_is_recorded_and_dialogues_do_not_wait() -> None:
    recorded: list[str] = []
    b_is_done = asyncio.Event()

    async def answer(query: Query) -> QueryState:
        if query.previous_id:
            assert query.previous_id in recorded
        if query.query_id == "a0":
            await b_is_done.wait()  # dialogue b goes on to its end meanwhile
        if query.query_id == "b1":
            raise ItemError("this round fails")
        return ok(query)

    async def keep(state: QueryState) -> None:
        await asyncio.sleep(0)
        recorded.append(state.query_id)
        if state.query_id == "b2":
            b_is_done.set()

    queries = [*rounds("a", 3), *rounds("b", 3)]
    await asyncio.wait_for(
        run_queries(queries, 2, answer, keep, lambda state: None, asyncio.Event()), 5
    )
    assert recorded == ["b0", "b1", "b2", "a0", "a1", "a2"]


async def test_a_window_of_one_answers_dialogues_to_their_ends() -> None:
    order: list[str] = []

    async def answer(query: Query) -> QueryState:
        order.append(query.query_id)
        return ok(query)

    async def keep(state: QueryState) -> None: ...

    mixed = [query for pair in zip(rounds("a", 3), rounds("b", 3), strict=True) for query in pair]
    await run_queries(mixed, 1, answer, keep, lambda state: None, asyncio.Event())
    assert order == ["a0", "a1", "a2", "b0", "b1", "b2"]
