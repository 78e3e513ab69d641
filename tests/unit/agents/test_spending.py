"""What an answer has cost: to whom it is counted, also from an engine's event loop."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from agents.backends.engine_loop import EngineLoop
from agents.spending import MODEL_SECONDS, SharedClock, shares, spend, tallied


def test_costs_go_to_the_model_and_to_the_message_in_whose_context_they_arise() -> None:
    totals: Counter[str] = Counter()
    loop = EngineLoop("test")

    async def forward(requests: int) -> None:
        spend(totals, requests=requests)

    def answer(requests: int) -> Counter[str]:
        with tallied() as spent:
            loop.run(forward(requests))
        return spent

    with ThreadPoolExecutor(4) as threads:
        spent = list(threads.map(answer, range(1, 9)))
    loop.close()
    assert [one["requests"] for one in spent] == list(range(1, 9))
    assert totals["requests"] == sum(range(1, 9))


def test_shares_of_a_batch_add_up() -> None:
    parts = shares({"requests": 8, "cache_hits": 1, MODEL_SECONDS: 0.9}, 3)
    assert [part.get("requests") for part in parts] == [3, 3, 2]
    assert [part.get("cache_hits") for part in parts] == [1, None, None]
    assert [part[MODEL_SECONDS] for part in parts] == pytest.approx([0.3, 0.3, 0.3])


def test_time_shared_by_two_adds_up_to_the_time_that_passed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("agents.spending.time.monotonic", lambda: now[0])
    clock, one, other = SharedClock(), Counter[str](), Counter[str]()
    with clock.working(one):
        now[0] += 4.0
        with clock.working(other):
            now[0] += 2.0
    now[0] += 100.0
    assert one[MODEL_SECONDS] == 5.0
    assert other[MODEL_SECONDS] == 1.0
