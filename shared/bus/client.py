"""The coordinators' end of the bus: send requests, receive replies, cancel, look at the queues."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from shared.bus import keys, scripts
from shared.bus.connection import (
    LONGEST_BLOCK_S,
    Outage,
    command,
    keep_trying,
    key_is_misplaced,
    will_pass,
)
from shared.bus.presence import read_heartbeat
from shared.bus.records import LiveAgent, QueueDepth, SetAside
from shared.bus.replying import failure_of_newer_reply
from shared.contracts.messages import ReplyMessage, RequestMessage, decode, encode
from shared.contracts.skills import AGENT_OF, AgentName
from shared.errors import DecodeError, NewerVersionError, PermanentError, TransientError
from shared.tasks import stop_tasks

_CANCEL_KEPT_S = 24 * 3600
_SET_ASIDE_KEPT = 1_000
_MOST_PER_SCRIPT = 512
"""Messages per script call: Redis serves nobody else while a script runs."""
_SHORTEST_POLL_S, _LONGEST_POLL_S = 0.002, 0.1
_LOOK_INTERVAL_S = 1.0

logger = logging.getLogger(__name__)


class _Parcel:
    """The messages of one `send` for one stream, added together or not yet."""

    __slots__ = ("added", "pairs")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.pairs: list[str | bytes] = []
        self.added: asyncio.Future[None] = loop.create_future()

    @property
    def size(self) -> int:
        return len(self.pairs) // 2


class BusClient:
    """Sends requests and receives the replies addressed to one list.

    Sends of many coroutines are collected and leave together: one script call per stream and turn
    of the event loop, in the order of sending. While Redis is away, everything waits.

    Args:
        redis: from `shared.bus.connection.connect`.
        reply_to: the Redis list replies come to, e.g. `keys.reply("run-7")`; the requests carry
            the same name in their `reply_to`.
        queue_limit: a request stream holds at most this many messages; senders wait beyond it.

    Attributes:
        outages: how often `receive` had to wait for Redis, or found it restarted meanwhile. What
            was under way may be lost (with the last second before a crash, or with all data), and
            is worth asking for again.
    """

    def __init__(self, redis: Redis, reply_to: str, queue_limit: int = 10_000) -> None:
        self.redis = redis
        self.reply_to = reply_to
        self.queue_limit = queue_limit
        self._outboxes: dict[str, deque[_Parcel]] = {}
        self._flushes: dict[str, asyncio.Task[None]] = {}
        self._receiving = Outage(redis)
        self._server = ""
        self._look_at_s = 0.0
        self.outages = 0

    async def send(
        self,
        requests: Sequence[RequestMessage],
        priority: keys.Priority = "lo",
        timeout_s: float | None = None,
    ) -> None:
        """Queue requests with the agents that answer them; waits while a stream is full.

        The requests for one agent are queued all or none. Sending one twice is allowed: the same
        id is answered twice.

        Raises:
            TransientError: a stream was full, or Redis away, for `timeout_s` (some of the requests
                may have been queued).
            PermanentError: more requests for one agent than a stream may ever hold.
        """
        parcels = self._pack(requests, priority)
        try:
            async with asyncio.timeout(timeout_s):
                for parcel in parcels:
                    await parcel.added
        except TimeoutError as error:
            raise TransientError(
                f"{len(requests)} requests not queued within {timeout_s:g} s: "
                f"a queue of {self.queue_limit} is full, or Redis is away"
            ) from error
        finally:
            for parcel in parcels:
                if parcel.added.done() and not parcel.added.cancelled():
                    parcel.added.exception()  # seen, also when another parcel's was raised
                parcel.added.cancel()

    async def receive(self, timeout_s: float = 1.0, limit: int = 256) -> list[ReplyMessage]:
        """Wait for replies: at least one, unless `timeout_s` passes first; at most `limit`.

        Malformed replies are parked and logged; one of a newer version comes as a retryable
        failure. Let it return by its timeout: cancelling it can
        lose replies that are on the way.
        """
        end = time.monotonic() + timeout_s
        replies: list[ReplyMessage] = []
        while not replies:
            left_s = end - time.monotonic()
            try:
                payloads = await self._pop(left_s, limit)
                await self._notice_restart(self._receiving.over())
            except RedisError as error:
                if key_is_misplaced(error):
                    logger.error("moved aside what lay in place of %s: %s", self.reply_to, error)
                    await scripts.MAKE_ROOM(self.redis, [self.reply_to], ["list"])
                    continue
                if not will_pass(error):
                    raise
                if left_s <= 0:
                    return []
                await self._receiving.wait(error)
                continue
            for payload in payloads:
                reply = await self._read(payload)
                if reply is not None:
                    replies.append(reply)
            if not payloads and time.monotonic() >= end:
                break
        return replies

    async def cancel(self, job_id: str) -> None:
        """From now on agents answer this job's requests with Failure("cancelled") unworked."""
        await keep_trying(
            Outage(self.redis),
            lambda: scripts.CANCEL(self.redis, [keys.cancel(job_id)], [_CANCEL_KEPT_S]),
        )

    async def uncancel(self, job_id: str) -> None:
        """Undo `cancel`, before a job is resumed."""
        await self._patiently("DEL", keys.cancel(job_id))

    async def depth(self, agent: AgentName) -> QueueDepth:
        """How much waits, for how long already, is being worked on, and was set aside."""
        streams = keys.request_streams(agent)
        hi, lo, dead, parked, oldest_ms, now_ms = await scripts.DEPTH(
            self.redis, [*streams, keys.dead(agent), keys.parked(agent)], [keys.GROUP]
        )
        return QueueDepth(
            waiting=max(hi[0] - hi[1], 0) + max(lo[0] - lo[1], 0),
            pending=hi[1] + lo[1],
            dead=dead,
            parked=parked,
            oldest_age_s=max(now_ms - oldest_ms, 0) / 1000 if oldest_ms else 0.0,
        )

    async def dead_letters(self, agent: AgentName, limit: int = 100) -> list[SetAside]:
        """The messages given up, oldest first."""
        return await self._set_aside(keys.dead(agent), limit)

    async def parked(self, agent: AgentName, limit: int = 100) -> list[SetAside]:
        """The malformed messages of an agent's streams, oldest first."""
        return await self._set_aside(keys.parked(agent), limit)

    async def parked_replies(self, limit: int = 100) -> list[SetAside]:
        """The malformed replies, of all coordinators, oldest first."""
        return await self._set_aside(keys.PARKED_REPLIES, limit)

    async def retry_dead_letter(self, agent: AgentName, entry_id: str) -> None:
        """Queue a dead letter again, as new.

        Raises: PermanentError: there is no such dead letter.
        """
        streams = [keys.dead(agent), *keys.request_streams(agent)]
        try:
            found = await scripts.RETRY_DEAD(self.redis, streams, [entry_id])
        except ResponseError as error:  # not the form of an id
            raise PermanentError(f"dead letter {entry_id!r} of {agent}: {error}") from error
        if not found:
            raise PermanentError(f"no dead letter {entry_id!r} of agent {agent}")

    async def live_agents(self) -> list[LiveAgent]:
        """Every consumer whose heartbeat is fresh, ordered by agent and name."""
        names = sorted(await command(self.redis, "SMEMBERS", keys.AGENTS))
        if not names:
            return []
        named = [keys.heartbeat(name.decode(errors="replace")) for name in names]
        beats = await command(self.redis, "MGET", *named)
        gone = [name for name, beat in zip(names, beats, strict=True) if beat is None]
        if gone:
            await command(self.redis, "SREM", keys.AGENTS, *gone)
        alive = [agent for beat in beats if beat is not None and (agent := read_heartbeat(beat))]
        return sorted(alive, key=lambda agent: (agent.agent, agent.worker, agent.consumer))

    async def aclose(self) -> None:
        """Give up unfinished sends. The connection stays its owner's."""
        await stop_tasks(self._flushes.values())

    # --- sending ----------------------------------------------------------------------------------

    def _pack(self, requests: Sequence[RequestMessage], priority: keys.Priority) -> list[_Parcel]:
        loop = asyncio.get_running_loop()
        parcels: dict[str, _Parcel] = {}
        for request in requests:
            stream = keys.requests(AGENT_OF[type(request.body)], priority)
            parcel = parcels.get(stream)
            if parcel is None:
                parcel = parcels[stream] = _Parcel(loop)
            parcel.pairs += (request.job_id, encode(request))
        for stream, parcel in parcels.items():
            if parcel.size > self.queue_limit:
                raise PermanentError(
                    f"{parcel.size} requests at once for {stream}, which holds {self.queue_limit} "
                    "at most: send fewer, or raise XR_QUEUE_LIMIT"
                )
        for stream, parcel in parcels.items():
            self._outboxes.setdefault(stream, deque()).append(parcel)
            if stream not in self._flushes:
                self._flushes[stream] = loop.create_task(self._flush(stream))
        return list(parcels.values())

    async def _flush(self, stream: str) -> None:
        """Add the stream's outbox, in order, until it is empty; poll while the stream is full."""
        outbox, outage, poll_s = self._outboxes[stream], Outage(self.redis), _SHORTEST_POLL_S
        most = _MOST_PER_SCRIPT
        try:
            while parcels := _next_parcels(outbox, most):
                try:
                    added = await self._add(stream, parcels)
                except RedisError as error:
                    if not will_pass(error):
                        raise
                    await outage.wait(error)  # meanwhile senders may give up: choose parcels anew
                    most = 1  # at the memory limit a small script may pass where a large one can't
                    continue
                outage.over()
                most = _MOST_PER_SCRIPT
                for parcel in parcels[:added]:
                    outbox.remove(parcel)
                    if not parcel.added.done():
                        parcel.added.set_result(None)
                if added < len(parcels):
                    await asyncio.sleep(poll_s)
                    poll_s = min(2 * poll_s, _LONGEST_POLL_S)
                else:
                    poll_s = _SHORTEST_POLL_S
        except Exception as error:  # to be raised where somebody waits for it
            for parcel in outbox:
                if not parcel.added.done():
                    parcel.added.set_exception(error)
            outbox.clear()
        finally:
            for parcel in outbox:  # only when closing
                parcel.added.cancel()
            del self._flushes[stream]

    async def _add(self, stream: str, parcels: Sequence[_Parcel]) -> int:
        arguments: list[str | bytes | int] = [keys.GROUP, self.queue_limit, len(parcels)]
        arguments += (parcel.size for parcel in parcels)
        for parcel in parcels:
            arguments += parcel.pairs
        added: int = await scripts.SEND(self.redis, [stream], arguments)
        return added

    # --- receiving --------------------------------------------------------------------------------

    async def _pop(self, block_s: float, limit: int) -> list[bytes]:
        """Take what has come, in one round trip; block for the first at most `block_s`."""
        if block_s <= 0:
            return await command(self.redis, "LPOP", self.reply_to, limit) or []
        pipeline = self.redis.pipeline(transaction=False)
        # A millisecond or less Redis 6 rounds down to 0, which means for ever.
        pipeline.blpop([self.reply_to], max(min(block_s, LONGEST_BLOCK_S), 0.002))
        if limit > 1:
            pipeline.lpop(self.reply_to, limit - 1)
        first, *rest = await pipeline.execute()
        return ([first[1]] if first else []) + (rest[0] or [] if rest else [])

    async def _notice_restart(self, was_away: bool) -> None:
        """Count an outage, also one so short that the connection was mended unnoticed."""
        now = time.monotonic()
        if now < self._look_at_s and not was_away:
            return
        server = self._server
        with contextlib.suppress(RedisError):  # looked for again with the next replies
            server = (await command(self.redis, "INFO", "server"))["run_id"]
            self._look_at_s = now + _LOOK_INTERVAL_S
        self.outages += was_away or self._server not in ("", server)
        self._server = server

    async def _read(self, payload: bytes) -> ReplyMessage | None:
        """The reply; None when it was parked."""
        try:
            return decode(payload, ReplyMessage)
        except NewerVersionError as error:
            failure = failure_of_newer_reply(payload, str(error))
            if failure is None:
                await self._park_reply(error)
            else:
                logger.warning("reply to %s: %s", failure.message_id, error)
            return failure
        except DecodeError as error:
            await self._park_reply(error)
            return None

    async def _park_reply(self, error: DecodeError) -> None:
        logger.error("malformed reply in %s parked: %s", self.reply_to, error)
        await self._patiently(
            *("XADD", keys.PARKED_REPLIES, "MAXLEN", "~", _SET_ASIDE_KEPT, "*", "m", error.payload),
            *("j", "", "reason", str(error), "deliveries", 1, "stream", self.reply_to),
        )

    async def _patiently(self, *words: str | bytes | int) -> Any:
        return await keep_trying(Outage(self.redis), lambda: command(self.redis, *words))

    async def _set_aside(self, stream: str, limit: int) -> list[SetAside]:
        entries = await command(self.redis, "XRANGE", stream, "-", "+", "COUNT", limit)
        return [_as_set_aside(entry_id.decode(), fields) for entry_id, fields in entries]


def _next_parcels(outbox: deque[_Parcel], most: int) -> list[_Parcel]:
    """The parcels to add next, about `most` messages, at least one; drops abandoned ones."""
    while outbox and outbox[0].added.done():
        outbox.popleft()
    chosen: list[_Parcel] = []
    size = 0
    for parcel in outbox:
        if chosen and size + parcel.size > most:
            break
        if not parcel.added.done():
            chosen.append(parcel)
            size += parcel.size
    return chosen


def _as_set_aside(entry_id: str, fields: dict[bytes, bytes]) -> SetAside:
    # Whatever somebody has put there by hand is shown as far as it goes.
    deliveries = fields.get(b"deliveries", b"")
    return SetAside(
        entry_id=entry_id,
        payload=fields.get(b"m", b""),
        job_id=fields.get(b"j", b"").decode(errors="replace"),
        reason=fields.get(b"reason", b"").decode(errors="replace"),
        deliveries=int(deliveries) if deliveries.isdigit() and len(deliveries) < 10 else 0,
        stream=fields.get(b"stream", b"").decode(errors="replace"),
        at_s=int(entry_id.split("-")[0]) / 1000,
    )
