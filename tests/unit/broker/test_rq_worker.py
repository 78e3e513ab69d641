"""When a job is tried again, and how its worker looks after what others left."""

from __future__ import annotations

from broker.rq_worker import pause_before_retry_s


def test_the_pause_doubles_from_nothing_to_a_minute() -> None:
    pauses = [pause_before_retry_s(deaths, killed=False) for deaths in range(1, 9)]
    assert pauses == [0, 1, 3, 7, 15, 31, 60, 60]
    assert sum(pauses[:7]) + 60 * 7 < 600 < sum(pauses[:7]) + 60 * 9, "16 tries in 10 minutes"


def test_killed_processes_are_no_reason_to_wait_for_long() -> None:
    assert [pause_before_retry_s(deaths, killed=True) for deaths in (1, 2, 3, 4, 99)] == [
        0, 1, 3, 4, 4,
    ]  # fmt: skip
