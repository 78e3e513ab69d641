"""Who is let into an engine, and when: a person at once, a benchmark by its budget."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from agents.backends.request_budget import RequestBudget


class Requests:
    """Background requests that stay under way until they are told to end."""

    def __init__(self, budget: RequestBudget) -> None:
        self.let_in: list[str] = []
        self._budget = budget
        self._ends = asyncio.Event()

    async def ask(self, name: str) -> None:
        async with self._budget.in_background():
            self.let_in.append(name)
            await self._ends.wait()

    async def start(self, *names: str) -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(self.ask(name)) for name in names]
        await settled()
        return tasks

    async def end_those_under_way(self) -> None:
        self._ends.set()
        self._ends = asyncio.Event()
        await settled()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_background_requests_are_let_in_in_order_up_to_the_budget() -> None:
    requests = Requests(RequestBudget(2))
    tasks = await requests.start("a", "b", "c", "d", "e")
    assert requests.let_in == ["a", "b"]
    await requests.end_those_under_way()
    assert requests.let_in == ["a", "b", "c", "d"]
    await requests.end_those_under_way()
    await requests.end_those_under_way()
    await asyncio.gather(*tasks)
    assert requests.let_in == ["a", "b", "c", "d", "e"]


async def test_a_narrow_budget_lets_nobody_in_beside_a_person_and_none_is_lost() -> None:
    budget = RequestBudget(3)
    requests = Requests(budget)
    tasks = await requests.start("a", "b", "c", "d", "e", "f", "g")
    with budget.for_a_person():
        with budget.for_a_person():
            await requests.end_those_under_way()
        await settled()
        assert requests.let_in == ["a", "b", "c"]
    await settled()
    assert requests.let_in == ["a", "b", "c", "d", "e", "f"]
    await requests.end_those_under_way()
    await requests.end_those_under_way()
    await asyncio.gather(*tasks)


async def test_a_wide_budget_leaves_some_room_beside_a_person() -> None:
    budget = RequestBudget(128)
    requests = Requests(budget)
    with budget.for_a_person():
        tasks = await requests.start(*map(str, range(10)))
        assert len(requests.let_in) == 2
    await settled()
    assert len(requests.let_in) == 10
    await requests.end_those_under_way()
    await asyncio.gather(*tasks)


async def test_who_is_cancelled_gives_the_place_back_at_whatever_moment() -> None:
    requests = Requests(RequestBudget(1))
    first, waiting, last = await requests.start("first", "waiting", "last")
    waiting.cancel()
    first.cancel()  # its place goes to the next who still waits
    await settled()
    assert requests.let_in == ["first", "last"]
    (next_one,) = await requests.start("next")
    last.cancel()
    await asyncio.sleep(0)  # by now the place is the next one's, who has not begun yet
    next_one.cancel()
    await settled()
    await requests.start("after all")
    assert requests.let_in[-1] == "after all"
    await requests.end_those_under_way()


async def test_an_error_within_gives_the_place_back() -> None:
    budget = RequestBudget(1)
    with suppress(ValueError):
        async with budget.in_background():
            raise ValueError
    async with asyncio.timeout(1), budget.in_background():
        pass
