"""What the bus tells about itself: queue depths, live consumers, messages set aside."""

from __future__ import annotations

import msgspec


class QueueDepth(msgspec.Struct, frozen=True):
    """Messages of one agent type: waiting in line, delivered but not yet answered, given up."""

    waiting: int
    pending: int
    dead: int


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
