"""What the bus tells about itself: queue depths, live consumers, messages set aside."""

from __future__ import annotations

import msgspec


class QueueDepth(msgspec.Struct, frozen=True):
    """Messages of one agent type: waiting in line, delivered but not yet answered, given up.

    Attributes:
        parked: malformed ones, set aside.
        oldest_age_s: how long ago the oldest that has no answer yet was queued; 0 without any.
    """

    waiting: int
    pending: int
    dead: int
    parked: int = 0
    oldest_age_s: float = 0.0


class SetAside(msgspec.Struct, frozen=True):
    """A message taken out of the traffic (dead letter or parked).

    Attributes:
        entry_id: names it for `retry_dead_letter`.
        payload: its bytes as they were sent.
        job_id: the job it belonged to, as far as known.
        reason: why it is here.
        deliveries: how often it was handed to a consumer.
        stream: the request stream or reply list it came from.
        at_s: Unix time of setting aside, by the clock of Redis.
    """

    entry_id: str
    payload: bytes
    job_id: str
    reason: str
    deliveries: int
    stream: str
    at_s: float


class LiveAgent(msgspec.Struct, frozen=True, kw_only=True):
    """One consumer's heartbeat.

    Attributes:
        agent: which requests it takes.
        worker: the process, as named in replies.
        consumer: its unique name in the consumer group.
        identity: the checkpoint it serves.
        in_flight: messages in hand.
        processed, failures, batches: counts since its start.
        started_at_s, last_batch_at_s: Unix times; the latter None before the first batch.
        ready: whether a real item passed through the model lately.
        busy_share: of the last half minute, in [0, 1].
        batch_fill: messages per batch of the last half minute, as a share of `max_batch`.
        redelivered, retried, dead_lettered, parked, late, handed_back, too_new, left: counts since
            its start, see `Consumer`.
        caches: name -> (hits, misses) of its process since the start.
    Programs of other versions read this: new fields have defaults.
    """

    agent: str
    worker: str
    consumer: str
    identity: str
    in_flight: int
    processed: int
    failures: int
    batches: int
    started_at_s: float
    last_batch_at_s: float | None
    ready: bool = True
    busy_share: float = 0.0
    batch_fill: float = 0.0
    redelivered: int = 0
    retried: int = 0
    dead_lettered: int = 0
    parked: int = 0
    late: int = 0
    handed_back: int = 0
    too_new: int = 0
    left: int = 0
    caches: dict[str, tuple[int, int]] = {}
