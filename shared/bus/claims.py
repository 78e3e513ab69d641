"""A consumer's hold on messages: taking, renewing, answering, taking over, setting aside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis

from shared.bus import keys, scripts
from shared.bus.connection import command

INTERACTIVE = 1
"""The number of the stream hi."""
_SET_ASIDE_KEPT = 10_000
_LONG_LAPSED_MS = 24 * 3600 * 1000
_NEVER_MS = 2**52


class Claim(NamedTuple):
    """A message in one consumer's hand.

    Attributes:
        stream: INTERACTIVE = hi, 2 = lo.
        entry_id: its entry in that stream.
        payload: the message's bytes, not yet validated.
        job_id: as its sender noted it beside the message.
        deliveries: how often it has been handed out, this time included.
    """

    stream: int
    entry_id: bytes
    payload: bytes
    job_id: bytes
    deliveries: int = 1

    @property
    def queued_ms(self) -> int:
        """When it was queued: Unix time by the clock of Redis."""
        return int(self.entry_id.split(b"-")[0])


class Taken(NamedTuple):
    """What a script has put into a consumer's hand.

    Attributes:
        claims: in the order of the stream.
        cancelled: which of their jobs (and of others asked about) are cancelled.
        now_ms: Unix time by the clock of Redis.
    """

    claims: list[Claim]
    cancelled: set[bytes]
    now_ms: int


class Reply(NamedTuple):
    """What to send for a claim: the list and the message's bytes."""

    claim: Claim
    reply_to: str
    payload: bytes


class Claims:
    """The Redis side of one consumer.

    Args:
        redis: the connection pool.
        agent: whose requests are taken.
        consumer: unique name in the consumer group; two living consumers never share one.
        lease_s: a claim lapses this long after its last renewal.
        reply_expiry_s: replies nobody reads vanish after this time.
    """

    def __init__(
        self, redis: Redis, agent: str, consumer: str, *, lease_s: float, reply_expiry_s: int
    ) -> None:
        self._redis = redis
        self._agent = agent
        self._streams = keys.request_streams(agent)
        self._us = (keys.GROUP, consumer)
        self._consumer = consumer
        self._lease_ms = int(lease_s * 1000)
        self._reply_expiry_s = reply_expiry_s

    async def make_room(self) -> None:
        """Move aside what somebody has put where our streams and the list of consumers belong."""
        streams = [*self._streams, keys.dead(self._agent), keys.parked(self._agent)]
        kinds = ["stream"] * len(streams)
        await scripts.MAKE_ROOM(self._redis, [*streams, keys.AGENTS], [*kinds, "set"])

    async def create_groups(self) -> None:
        await self.make_room()
        await scripts.CREATE_GROUPS(self._redis, self._streams, [keys.GROUP])

    async def take(
        self, room: int, further_jobs: Iterable[bytes] = (), *, interactive: bool = False
    ) -> Taken:
        """At most `room` new messages, without waiting; of `further_jobs` the cancelled ones.

        Args:
            interactive: take no others.
        """
        streams = self._streams[:INTERACTIVE] if interactive else self._streams
        flat, cancelled, now_ms = await scripts.TAKE(
            self._redis, streams, [*self._us, room, keys.CANCEL_PREFIX, *further_jobs]
        )
        claims = [Claim(*flat[i : i + 4]) for i in range(0, len(flat), 4)]
        return Taken(claims, set(cancelled), now_ms)

    async def wait(self, block_s: float) -> list[Claim]:
        """Block until a message comes and take it: none, one, or one of each stream."""
        answer: Any = await command(
            self._redis,
            *("XREADGROUP", "GROUP", *self._us, "COUNT", 1, "BLOCK", max(int(block_s * 1000), 1)),
            *("STREAMS", *self._streams, ">", ">"),
        )
        return [
            Claim(
                1 + self._streams.index(stream.decode()),
                entry_id,
                fields.get(b"m", b""),
                fields.get(b"j", b""),
            )
            for stream, entries in answer or ()
            for entry_id, fields in entries
        ]

    async def rescue(self, most: int, reads_version: int, *, lapsed: bool = True) -> Taken | None:
        """Take over messages nobody holds any more.

        Those that were handed back untried come together, at most `most`; a suspect, whose lease
        has lapsed, comes alone. What others have left to us, and messages shelved for readers of
        `reads_version`, come first.

        Args:
            lapsed: false = only what lies on such a shelf.
        """
        found = await scripts.RESCUE(
            self._redis,
            self._streams,
            [
                *(*self._us, self._lease_ms if lapsed else _NEVER_MS, keys.CANCEL_PREFIX),
                *(most, reads_version, keys.SHELF_PREFIX, keys.preferred_shelf(self._consumer)),
            ],
        )
        if not found:
            return None
        flat, cancelled, now_ms = found
        claims = [Claim(*flat[i : i + 5]) for i in range(0, len(flat), 5)]
        return Taken(claims, set(cancelled), now_ms)

    async def hand_back(self, claims: Sequence[Claim]) -> int:
        """Let go of those that are still ours, for anybody to take at once; returns how many."""
        return await self._give(claims, keys.HANDED_BACK, _LONG_LAPSED_MS)

    async def shelve(self, claims: Sequence[Claim], version: int) -> int:
        """Leave messages to workers that read this schema version; returns how many.

        Older workers look at them again when a lease's time has passed.
        """
        return await self._give(claims, keys.shelf(version), 0)

    async def leave(self, preferred: Sequence[tuple[Claim, str]], most: int) -> list[Claim]:
        """Leave each claim to the consumer beside it, if that lives and fewer than `most` wait for
        it; returns those that are no longer ours."""
        named = [part for c, consumer in preferred for part in (c.stream, c.entry_id, consumer)]
        places = await scripts.LEAVE(
            self._redis,
            self._streams,
            [*self._us, keys.heartbeat(""), keys.PREFERRED_PREFIX, most, *named],
        )
        return [preferred[place - 1][0] for place in places]

    async def release_shelf(self) -> None:
        """What others have left to us is anybody's now."""
        arguments = (keys.preferred_shelf(self._consumer), keys.HANDED_BACK, _LONG_LAPSED_MS)
        await scripts.RELEASE(self._redis, self._streams, [keys.GROUP, *arguments])

    async def _give(self, claims: Sequence[Claim], keeper: str, idle_ms: int) -> int:
        named = [part for c in claims for part in (c.stream, c.entry_id, c.deliveries)]
        given: int = await scripts.HAND_BACK(
            self._redis, self._streams, [*self._us, keeper, idle_ms, *named]
        )
        return given

    async def renew(self, claims: Sequence[Claim]) -> int:
        """Renew the leases that are still ours; returns how many."""
        named = [part for claim in claims for part in (claim.stream, claim.entry_id)]
        renewed: int = await scripts.RENEW(self._redis, self._streams, [*self._us, *named])
        return renewed

    async def finish(self, replies: Sequence[Reply]) -> int:
        """Reply, acknowledge and delete those that are still ours; returns how many."""
        flat = [
            part
            for claim, reply_to, payload in replies
            for part in (claim.stream, claim.entry_id, reply_to, payload)
        ]
        recorded: int = await scripts.FINISH(
            self._redis, self._streams, [*self._us, self._reply_expiry_s, *flat]
        )
        return recorded

    async def bury(self, claim: Claim, reason: str, reply: Reply | None) -> bool:
        """Move a message to the dead letters."""
        return await self._set_aside(keys.dead(self._agent), claim, reason, reply)

    async def park(self, claim: Claim, reason: str, reply: Reply | None) -> bool:
        """Move bytes that are no message to the parked ones."""
        return await self._set_aside(keys.parked(self._agent), claim, reason, reply)

    async def _set_aside(self, to: str, claim: Claim, reason: str, reply: Reply | None) -> bool:
        answer = (reply.reply_to, reply.payload) if reply else ("", b"")
        moved = await scripts.SET_ASIDE(
            self._redis,
            [self._streams[claim.stream - 1], to],
            [
                *(*self._us, claim.entry_id, claim.payload, claim.job_id, reason, claim.deliveries),
                *(_SET_ASIDE_KEPT, self._reply_expiry_s, *answer),
            ],
        )
        return bool(moved)

    async def forget_consumers(self, idle_s: float) -> None:
        """Remove consumers that hold nothing and were not seen for `idle_s` from the group."""
        await scripts.FORGET_CONSUMERS(
            self._redis, self._streams, [keys.GROUP, int(idle_s * 1000), ""]
        )

    async def forget_us(self) -> None:
        """Remove this consumer from the group, if it holds nothing."""
        await scripts.FORGET_CONSUMERS(
            self._redis, self._streams, [keys.GROUP, 2**52, self._consumer]
        )
