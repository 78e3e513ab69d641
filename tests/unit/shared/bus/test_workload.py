"""What a consumer did, as its heartbeats and metrics tell it; and what waits for newer workers."""

from __future__ import annotations

import pytest

from shared.bus.waiting_list import WaitingList
from shared.bus.workload import Workload


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def batch(work: Workload, clock: Clock, seconds: float, messages: int) -> None:
    began_s = work.began()
    clock.now_s += seconds
    work.ended(messages, began_s)


def test_busy_share_and_fill_are_those_of_the_last_half_minute() -> None:
    clock = Clock()
    work = Workload(clock)
    assert work.lately() == (0.0, 0.0)
    # Given a busy time long ago,
    batch(work, clock, 50.0, 32)
    for _ in range(20):
        clock.now_s += 2.0
        work.lately()
    # when half of a later time was spent on batches of 4 and 8,
    batch(work, clock, 8.0, 4)
    batch(work, clock, 7.0, 8)
    share, fill = work.lately()
    # then only that counts.
    assert share == pytest.approx(0.5, abs=0.05)
    assert fill == 6


def test_a_batch_under_way_counts_as_busy_time() -> None:
    clock = Clock()
    work = Workload(clock)
    work.began()
    clock.now_s += 10.0
    assert work.busy_s == 10.0
    share, fill = work.lately()
    assert (share, fill) == (1.0, 0.0)


def test_batches_that_overlap_are_busy_time_once() -> None:
    clock = Clock()
    work = Workload(clock)
    first_s = work.began()
    clock.now_s += 2.0
    second_s = work.began()
    clock.now_s += 3.0
    work.ended(1, first_s)
    clock.now_s += 1.0
    work.ended(1, second_s)
    assert work.busy_s == 6.0
    assert work.batch_seconds()[1] == 5.0 + 4.0


def test_batch_times_are_a_cumulative_histogram() -> None:
    clock = Clock()
    work = Workload(clock)
    for seconds in (0.001, 0.05, 0.06, 4000.0):
        batch(work, clock, seconds, 1)
    buckets, total_s = work.batch_seconds()
    counts = dict(buckets)
    assert (counts["0.005"], counts["0.05"], counts["0.1"]) == (1, 2, 3)
    assert (counts["300.0"], counts["+Inf"]) == (3, 4)
    assert total_s == pytest.approx(4000.111)
    assert (work.batches, work.messages) == (4, 4)


def test_patience_runs_from_the_first_sight_of_each_entry() -> None:
    clock = Clock()
    waiting = WaitingList(60.0, clock)
    assert not waiting.is_over(b"a")
    clock.now_s += 50.0
    assert not waiting.is_over(b"a")
    assert not waiting.is_over(b"b")
    clock.now_s += 11.0
    assert waiting.is_over(b"a")
    assert not waiting.is_over(b"b")
    assert not waiting.is_over(b"a")  # tried again by a person: it begins anew


def test_entries_that_somebody_else_took_are_forgotten() -> None:
    clock = Clock()
    waiting = WaitingList(60.0, clock)
    for entry in range(100):
        waiting.is_over(b"%d" % entry)
    clock.now_s += 200.0
    assert not waiting.is_over(b"new")
    assert len(waiting) == 1
