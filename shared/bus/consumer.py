"""The agents' end of the bus: takes requests in batches, has them answered, survives what fails."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.bus import keys
from shared.bus.claims import Claim, Claims, Reply
from shared.bus.connection import Outage, Outcome, group_is_missing, keep_trying, will_pass
from shared.bus.records import LiveAgent
from shared.bus.replying import answers_of_one_length, reply_bytes, salvage
from shared.contracts.messages import Failure, RequestMessage, decode
from shared.contracts.skills import Result
from shared.errors import DecodeError, TransientError, XRError
from shared.tasks import stop_tasks

Answer = Result | Failure
Handler = Callable[[Sequence[RequestMessage]], Awaitable[Sequence[Answer]]]

_LONGEST_IDLE_BLOCK_S = 0.5
_HEARTBEAT_INTERVAL_S, _HEARTBEAT_KEPT_S = 2.0, 10
_FORGET_INTERVAL_S = 60.0
_REPLY_KEPT_S = 3600

logger = logging.getLogger(__name__)


class EngineDeadError(XRError):
    """Raised by a handler whose model is gone: the consumer stops and acknowledges nothing."""


class Consumer:
    """Serves one agent's request streams until told to stop. Several may share an event loop.

    Delivery is at least once, recording an answer is once. A message is leased to the consumer
    that took it; leases are renewed while its batch is in hand, and those of a consumer that died
    or froze lapse. A lapsed message is a suspect: it is delivered again alone, so that a message
    which kills its worker takes nobody along, and given up after `max_deliveries`.

    The leases are renewed by the event loop: **a handler must not block it**. Compute in a thread
    (`asyncio.to_thread`); a handler that blocks the loop for longer than `lease_s` loses its batch.

    Args:
        redis: from `shared.bus.connection.connect`.
        agent: whose requests to take.
        handler: gets 1..max_batch valid requests, returns one answer each in their order. When it
            raises on a batch, each request is tried alone, so that only the guilty one fails
            (retryable when it raised `TransientError`). `EngineDeadError` ends the consumer.
        worker: name of this process in replies and heartbeats.
        max_batch: messages taken at once.
        max_wait_ms: how long a batch that isn't full may wait for more; the wait ends early when
            nothing more comes.
        lease_s: how long after its last renewal a claim lapses.
        max_deliveries: a message handed out this often without an answer is a dead letter.
        identity: the checkpoint served, for the heartbeat.

    Attributes:
        batches, messages, failures: handler batches run, requests answered, of which as failures.
        redelivered: suspects taken over from other consumers.
        dead_lettered, parked: messages set aside.
        late: answers not recorded because somebody else had taken the message over.
        in_flight: messages in hand.
        last_batch_at_s: Unix time of the last handler batch that was answered; None before.
    """

    def __init__(
        self,
        redis: Redis,
        agent: str,
        handler: Handler,
        *,
        worker: str,
        max_batch: int = 32,
        max_wait_ms: float = 5.0,
        lease_s: float = 15.0,
        max_deliveries: int = 3,
        identity: str = "",
    ) -> None:
        self.agent, self.worker, self.identity = agent, worker, identity
        self.name = f"{worker}-{secrets.token_hex(4)}"
        self.batches = self.messages = self.failures = self.redelivered = 0
        self.dead_lettered = self.parked = self.late = 0
        self.last_batch_at_s: float | None = None
        self._redis, self._handler = redis, handler
        self._max_batch, self._max_wait_s = max_batch, max_wait_ms / 1000
        self._lease_s, self._max_deliveries = lease_s, max_deliveries
        self._claims = Claims(
            redis, agent, self.name, lease_s=lease_s, reply_expiry_s=_REPLY_KEPT_S
        )
        self._in_hand: Sequence[Claim] = ()
        self._outage = Outage(redis)
        self._stopping_since_s: float | None = None
        self._rescue_at_s = self._forget_at_s = 0.0
        self._quiet = False  # messages come one by one: it pays to wait without looking first
        self._started_at_s = time.time()

    @property
    def in_flight(self) -> int:
        return len(self._in_hand)

    def stop(self) -> None:
        """Drain: take nothing new, finish the batch in hand, let `run` return."""
        if self._stopping_since_s is None:
            self._stopping_since_s = time.monotonic()

    async def run(self) -> None:
        """Serve until `stop`. While Redis is away it waits and tries again.

        Raises:
            EngineDeadError: from the handler.
            RedisError: what doesn't pass by itself, such as a refused password.
        """
        background = asyncio.create_task(self._keep_alive(), name=f"leases of {self.name}")
        try:
            await self._patiently(self._claims.create_groups)
            while self._stopping_since_s is None:
                if background.done():
                    background.result()
                try:
                    await self._serve_once()
                except RedisError as error:
                    await self._recover(error)
                else:
                    self._outage.over()
        finally:
            await stop_tasks([background])
            with contextlib.suppress(RedisError):
                await self._sign_off()

    # --- one turn ---------------------------------------------------------------------------------

    async def _serve_once(self) -> None:
        suspect = await self._next_suspect()
        if suspect:
            claim, cancelled = suspect
            self.redelivered += 1
            logger.warning(
                "%s: delivery %d of a message whose worker died or froze (%s of job %s)",
                self.name, claim.deliveries, claim.entry_id.decode(),
                claim.job_id.decode(errors="replace"),
            )  # fmt: skip
            await self._hold([claim], {claim.job_id} if cancelled else set())
        claims, cancelled_jobs = await self._gather(may_block=suspect is None)
        await self._hold(claims, cancelled_jobs)

    async def _next_suspect(self) -> tuple[Claim, bool] | None:
        now = time.monotonic()
        if now < self._rescue_at_s:
            return None
        if now >= self._forget_at_s:
            await self._claims.forget_consumers(max(_FORGET_INTERVAL_S, 10 * self._lease_s))
            self._forget_at_s = now + _FORGET_INTERVAL_S
        suspect = await self._claims.rescue()
        if suspect is None:  # otherwise more may wait: look again in the next turn
            self._rescue_at_s = now + self._lease_s / 5
        return suspect

    async def _gather(self, *, may_block: bool) -> tuple[list[Claim], set[bytes]]:
        """As many messages as wait, at most `max_batch`; and the cancelled ones among their jobs.

        Polls instead of blocking for milliseconds: on an idle server a short block takes as long as
        the server's timer.
        """
        claims: list[Claim] = []
        cancelled: set[bytes] = set()
        unchecked: set[bytes] = set()
        if not (self._quiet and may_block):
            claims, cancelled = await self._claims.take(self._max_batch)
        if not claims:
            if may_block:
                claims = await self._claims.wait(min(_LONGEST_IDLE_BLOCK_S, self._lease_s / 5))
            if not claims:
                return [], cancelled
            unchecked = {claim.job_id for claim in claims}
        woken = bool(unchecked)
        end = time.monotonic() + self._max_wait_s
        while unchecked or (len(claims) < self._max_batch and time.monotonic() < end):
            room = max(self._max_batch - len(claims), 0)
            if room and self._max_wait_s:
                await asyncio.sleep(self._max_wait_s / 2)
            more, also_cancelled = await self._claims.take(room, unchecked)
            unchecked = set()
            claims += more
            cancelled |= also_cancelled
            if not more:
                break
        self._quiet = woken and len(claims) == 1
        return claims, cancelled

    async def _hold(self, claims: Sequence[Claim], cancelled: set[bytes]) -> None:
        """Work on claims; the background task renews them meanwhile."""
        self._in_hand = claims
        try:
            # A blocking read can bring one message of each stream: one more than a batch of one.
            for start in range(0, len(claims), self._max_batch):
                await self._work(claims[start : start + self._max_batch], cancelled)
        finally:
            self._in_hand = ()

    async def _work(self, claims: Sequence[Claim], cancelled: set[bytes]) -> None:
        """See every claim to its end: answered, or set aside."""
        open_requests: list[tuple[Claim, RequestMessage]] = []
        replies: list[Reply] = []
        now_s = time.time()
        for claim in claims:
            try:
                request = decode(claim.payload, RequestMessage)
            except DecodeError as error:
                await self._park(claim, error)
                continue
            if claim.deliveries > self._max_deliveries:
                await self._bury(claim, request)
            elif claim.job_id in cancelled:
                replies.append(self._reply(claim, request, Failure("cancelled")))
            elif request.deadline_s is not None and request.deadline_s < now_s:
                replies.append(self._reply(claim, request, Failure("deadline passed")))
            else:
                open_requests.append((claim, request))
        if open_requests:
            answers = await self._ask([request for _, request in open_requests])
            self.batches += 1
            self.last_batch_at_s = time.time()
            replies += (
                self._reply(claim, request, answer)
                for (claim, request), answer in zip(open_requests, answers, strict=True)
            )
        await self._deliver(replies)

    async def _ask(self, requests: Sequence[RequestMessage]) -> Sequence[Answer]:
        """One answer per request, whatever the handler does."""
        try:
            answers = await self._handler(requests)
        except EngineDeadError:
            raise
        except Exception as error:
            if len(requests) == 1:
                retryable = isinstance(error, TransientError)
                logger.warning("request %s failed", requests[0].message_id, exc_info=error)
                return [Failure(f"{type(error).__name__}: {error}", retryable=retryable)]
            logger.warning(
                "a batch of %d failed (%s: %s): trying each alone",
                len(requests), type(error).__name__, error,
            )  # fmt: skip
            return [answer for request in requests for answer in await self._ask([request])]
        return answers_of_one_length(answers, len(requests))

    def _reply(self, claim: Claim, request: RequestMessage, answer: Answer) -> Reply:
        payload, failed = reply_bytes(request.message_id, self.worker, answer)
        self.messages += 1
        self.failures += failed
        return Reply(claim, request.reply_to, payload)

    # --- ends of a message ------------------------------------------------------------------------

    async def _deliver(self, replies: Sequence[Reply]) -> None:
        if not replies:
            return
        try:
            recorded = await self._patiently(lambda: self._claims.finish(replies))
        except RedisError as error:
            if not group_is_missing(error):
                raise
            await self._recover(error)
            recorded = 0
        if recorded < len(replies):
            self.late += len(replies) - recorded
            logger.warning(
                "%s: %d of %d answers came too late and were not recorded",
                self.name, len(replies) - recorded, len(replies),
            )  # fmt: skip

    async def _bury(self, claim: Claim, request: RequestMessage) -> None:
        reason = f"no answer after {self._max_deliveries} deliveries: its workers died or froze"
        reply = self._reply(claim, request, Failure(reason))
        if await self._patiently(lambda: self._claims.bury(claim, reason, reply)):
            self.dead_lettered += 1
            logger.error("dead letter: %s of %s: %s", request.message_id, self.agent, reason)

    async def _park(self, claim: Claim, error: DecodeError) -> None:
        reason = f"malformed message: {error}"
        addressed = salvage(claim.payload)
        reply = None
        if addressed:
            message_id, reply_to = addressed
            payload, _ = reply_bytes(message_id, self.worker, Failure(reason))
            reply = Reply(claim, reply_to, payload)
        if await self._patiently(lambda: self._claims.park(claim, reason, reply)):
            self.parked += 1
            logger.error("%s: parked entry %s: %s", self.agent, claim.entry_id.decode(), reason)

    # --- in the background, and when Redis fails --------------------------------------------------

    async def _keep_alive(self) -> None:
        """Renew the leases of the batch in hand and show that this consumer lives."""
        interval_s = min(self._lease_s / 4, _HEARTBEAT_INTERVAL_S)
        heartbeat_at_s = 0.0
        while True:
            try:
                now = time.monotonic()
                if now >= heartbeat_at_s:
                    await self._publish_heartbeat()
                    heartbeat_at_s = now + _HEARTBEAT_INTERVAL_S
                if self._in_hand:
                    await self._claims.renew(self._in_hand)
            except RedisError as error:
                # The main loop is the one that waits, logs and recovers.
                logger.debug("%s: leases not renewed: %s", self.name, error)
            await asyncio.sleep(interval_s)

    async def _publish_heartbeat(self) -> None:
        beat = LiveAgent(
            agent=self.agent,
            worker=self.worker,
            consumer=self.name,
            identity=self.identity,
            in_flight=self.in_flight,
            processed=self.messages,
            failures=self.failures,
            batches=self.batches,
            started_at_s=self._started_at_s,
            last_batch_at_s=self.last_batch_at_s,
        )
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(keys.heartbeat(self.name), msgspec.msgpack.encode(beat), ex=_HEARTBEAT_KEPT_S)
        pipeline.sadd(keys.AGENTS, self.name)
        await pipeline.execute()

    async def _sign_off(self) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.delete(keys.heartbeat(self.name))
        pipeline.srem(keys.AGENTS, self.name)
        await pipeline.execute()
        await self._claims.forget_us()

    async def _recover(self, error: RedisError) -> None:
        if group_is_missing(error):
            logger.warning("%s: Redis has lost the queue of %s; made anew", self.name, self.agent)
            await self._patiently(self._claims.create_groups)
        elif will_pass(error):
            await self._outage.wait(error)
        else:
            raise error

    async def _patiently(self, operation: Callable[[], Awaitable[Outcome]]) -> Outcome:
        return await keep_trying(self._outage, operation, self._has_drained_long_enough)

    def _has_drained_long_enough(self) -> bool:
        """After a lease's time in hand without Redis the messages are somebody else's anyway."""
        since = self._stopping_since_s
        return since is not None and time.monotonic() - since > self._lease_s
