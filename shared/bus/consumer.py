"""The agents' end of the bus: takes requests in batches, has them answered, survives what fails."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.bus.asking import Answer as Answer
from shared.bus.asking import EngineDeadError as EngineDeadError
from shared.bus.asking import Handler as Handler
from shared.bus.asking import answers_to
from shared.bus.claims import INTERACTIVE, Claim, Claims, Reply, Taken
from shared.bus.connection import (
    Outage,
    Outcome,
    group_is_missing,
    keep_trying,
    key_is_misplaced,
    will_pass,
)
from shared.bus.gathering import Gathering
from shared.bus.lanes import Lanes
from shared.bus.preferences import Preferences
from shared.bus.presence import HEARTBEAT_INTERVAL_S, presence_of, show, vanish
from shared.bus.reading import has_expired, read_request
from shared.bus.replying import failure_for_unreadable, reply_bytes
from shared.bus.waiting_list import WaitingList
from shared.bus.workload import Workload
from shared.contracts.messages import SCHEMA_VERSION, Failure, RequestMessage, run_of
from shared.errors import DecodeError, NewerVersionError
from shared.logs import about
from shared.tasks import stop_tasks
from shared.urgency import Urgency, answering

_LONGEST_IDLE_BLOCK_S = 0.5
_LONGEST_RESCUE_INTERVAL_S = 1.0
_FORGET_INTERVAL_S = 60.0
_REPLY_KEPT_S = 3600
_NEWER_KEPT_S = 600.0
_INTERACTIVE_POLL_S = 0.01
_SHELF_POLL_S = 0.02

logger = logging.getLogger(__name__)


class Consumer:
    """Serves one agent's request streams until told to stop. Several may share an event loop.

    Delivery is at least once, recording an answer is once. A message is leased to the consumer
    that took it; leases are renewed while its batch is in hand, and those of a consumer that died
    or froze lapse. A lapsed message is a suspect: it is delivered again alone, so that a message
    which kills its worker takes nobody along, and given up after `max_deliveries`. A message that
    was handed back is no suspect, and that delivery is not counted.

    A message of a newer schema version is left to workers that can read it, and given up when none
    has come in ten minutes.

    The leases are renewed by the event loop: **a handler must not block it**. Compute in a thread
    (`asyncio.to_thread`); a handler that blocks the loop for longer than `lease_s` loses its batch.

    Args:
        redis: from `shared.bus.connection.connect`.
        agent: whose requests to take.
        handler: gets 1..max_batch valid requests, returns one answer each in their order. When it
            raises on a batch, the batch is halved until only the guilty requests fail (retryable
            when it raised `TransientError`). `EngineDeadError` ends the consumer.
        worker: name of this process in replies and heartbeats.
        max_batch: messages taken at once.
        concurrency: above 1, messages don't wait for each other: each goes to the handler alone, so
            many at a time (a few more where a person waits), and is answered when it is ready.
        max_wait_ms: how long a batch that isn't full may wait for more; the wait ends early when
            nothing more comes, and there is none while messages come one by one.
        lease_s: how long after its last renewal a claim lapses.
        max_deliveries: a message handed out this often without an answer is a dead letter.
        identity: the checkpoint served, for the heartbeat.
        is_ready: whether the model works, for the heartbeat.
        caches: hits and misses of the process's caches by name, for the heartbeat.
        reads_version: the newest schema version it reads.

    Attributes:
        messages, failures: requests answered, of which as failures.
        redelivered: suspects taken over from other consumers.
        retried: requests that were asked before, without an answer or with a passing failure.
        dead_lettered, parked: messages set aside.
        late: answers not recorded because somebody else had taken the message over.
        handed_back: messages let go of when stopping.
        too_new: times a message was left to a newer worker.
        left: times a message was left to the worker it prefers.
        in_flight: messages in hand.
        work: batches, their size and their time.
        redis_is_away: whether Redis didn't answer when last asked.
        started_at_s: Unix time.
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
        concurrency: int = 1,
        max_wait_ms: float = 5.0,
        lease_s: float = 15.0,
        max_deliveries: int = 3,
        identity: str = "",
        is_ready: Callable[[], bool] = lambda: True,
        caches: Callable[[], Mapping[str, tuple[int, int]]] = dict,
        reads_version: int = SCHEMA_VERSION,
    ) -> None:
        self.agent, self.worker, self.identity = agent, worker, identity
        self.name = f"{worker}-{secrets.token_hex(4)}"
        self.messages = self.failures = self.redelivered = self.retried = 0
        self.dead_lettered = self.parked = self.late = self.handed_back = self.too_new = 0
        self.work = Workload()
        self.max_batch = max_batch if concurrency == 1 else 1
        self.redis_is_away = False
        self.last_batch_at_s: float | None = None
        self._redis, self._handler = redis, handler
        self._is_ready, self._reads_version = is_ready, reads_version
        self.caches = caches
        self._lease_s, self._max_deliveries = lease_s, max_deliveries
        self._claims = Claims(
            redis, agent, self.name, lease_s=lease_s, reply_expiry_s=_REPLY_KEPT_S
        )
        self._preferences = Preferences(self._claims, self.name)
        self._gathering = Gathering(
            self._claims,
            max_batch,
            max_wait_ms / 1000 if concurrency == 1 else 0.0,
            min(_LONGEST_IDLE_BLOCK_S, lease_s / 5),
        )
        self._in_hand: dict[tuple[int, bytes], Claim] = {}
        self._lanes = Lanes(concurrency) if concurrency > 1 else None
        self._too_new = WaitingList(_NEWER_KEPT_S)
        self._outage = Outage(redis)
        self._stopping_since_s: float | None = None
        self._rescue_at_s = self._forget_at_s = 0.0
        self.started_at_s = time.time()

    @property
    def in_flight(self) -> int:
        return len(self._in_hand)

    @property
    def left(self) -> int:
        return self._preferences.left

    def stop(self) -> None:
        """Drain: take nothing new, finish the batch in hand, let `run` return."""
        if self._stopping_since_s is None:
            self._stopping_since_s = time.monotonic()

    async def hand_back(self) -> None:
        """Let go of the batch in hand: the process is about to end without its answers.

        Others take the messages at once. What a handler answers afterwards is not recorded.

        Raises: RedisError: it failed; the leases lapse by themselves.
        """
        self.stop()
        if self._in_hand:
            given = await self._claims.hand_back(list(self._in_hand.values()))
            self.handed_back += given
            logger.warning("%s: handed back %d messages unanswered", self.name, given)
        await self._sign_off()

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
                    if self._outage.over():  # give others, too, the time to renew their leases
                        self._rescue_at_s = time.monotonic() + self._lease_s
            with contextlib.suppress(RedisError):  # else what lies there lapses
                await self._claims.release_shelf()
            if self._lanes is not None:
                await self._lanes.drain()
        finally:
            if self._lanes is not None:
                await self._lanes.abandon()
            await stop_tasks([background])
            with contextlib.suppress(RedisError):
                await self._sign_off()

    # --- one turn ---------------------------------------------------------------------------------

    async def _serve_once(self) -> None:
        if self._lanes is not None:
            await self._serve_beside(self._lanes)
            return
        left = await self._next_left(self.max_batch)
        if left:
            await self._hold(left)
        if self._stopping_since_s is None:
            await self._hold(await self._gather(self.max_batch, may_block=left is None))

    async def _serve_beside(self, lanes: Lanes) -> None:
        """Start work on what is there, beside what is under way."""
        lanes.check()
        if not lanes.free:  # only a person's request finds a place
            await lanes.change(_INTERACTIVE_POLL_S)
            if lanes.reserve:
                self._start_each(lanes, await self._claims.take(lanes.reserve, interactive=True))
            return
        left = await self._next_left(lanes.free)
        if left and any(claim.deliveries > 1 for claim in left.claims):
            self._hold_on_to(left)
            await lanes.drain()  # a suspect takes nobody along
            await self._hold(left)
        elif left:
            self._start_each(lanes, left)
        elif self._stopping_since_s is None:
            self._start_each(lanes, await self._gather(lanes.free, may_block=True))

    def _start_each(self, lanes: Lanes, taken: Taken) -> None:
        self._hold_on_to(taken)
        for claim in taken.claims:
            lanes.start(self._hold(taken._replace(claims=[claim])))

    async def _gather(self, most: int, *, may_block: bool) -> Taken:
        """New messages that are for us. What others leave to us wakes nobody: it is looked for."""
        block_s = _SHELF_POLL_S if self._preferences.lately else None
        taken = await self._gathering.gather(may_block=may_block, most=most, block_s=block_s)
        return await self._preferences.leave(taken)

    async def _next_left(self, most: int) -> Taken | None:
        """Messages that nobody holds any more: handed back ones, at most `most`, or one suspect."""
        now = time.monotonic()
        if now < self._rescue_at_s:
            if not self._preferences.lately:
                return None
            return await self._claims.rescue(most, self._reads_version, lapsed=False)
        if now >= self._forget_at_s:
            await self._claims.forget_consumers(max(_FORGET_INTERVAL_S, 10 * self._lease_s))
            self._forget_at_s = now + _FORGET_INTERVAL_S
        left = await self._claims.rescue(most, self._reads_version)
        if left is None:  # otherwise more may wait: look again in the next turn
            self._rescue_at_s = now + min(self._lease_s / 5, _LONGEST_RESCUE_INTERVAL_S)
            return None
        for claim in left.claims:
            if claim.deliveries > 1:
                self.redelivered += 1
                logger.warning(
                    "%s: delivery %d of a message whose worker died or froze (%s of job %s)",
                    self.name, claim.deliveries, claim.entry_id.decode(),
                    claim.job_id.decode(errors="replace"),
                )  # fmt: skip
        return left

    async def _hold(self, taken: Taken) -> None:
        """Work on what was taken; the background task renews the leases meanwhile."""
        self._hold_on_to(taken)
        try:
            # A blocking read can bring one message of each stream: one more than a batch of one.
            for start in range(0, len(taken.claims), self.max_batch):
                part = taken.claims[start : start + self.max_batch]
                await self._work(taken._replace(claims=part))
        finally:
            for claim in taken.claims:
                self._in_hand.pop((claim.stream, claim.entry_id), None)

    def _hold_on_to(self, taken: Taken) -> None:
        self._in_hand |= {(claim.stream, claim.entry_id): claim for claim in taken.claims}

    async def _work(self, taken: Taken) -> None:
        """See every claim to its end: answered, set aside, or left to a newer worker."""
        open_requests: list[tuple[Claim, RequestMessage]] = []
        too_new: list[tuple[Claim, NewerVersionError]] = []
        replies: list[Reply] = []
        for claim in taken.claims:
            try:
                request = read_request(claim, self._reads_version)
            except NewerVersionError as error:
                too_new.append((claim, error))
                continue
            except DecodeError as error:
                await self._park(claim, f"malformed message: {error}")
                continue
            if claim.deliveries > self._max_deliveries:
                await self._bury(claim, request)
            elif claim.job_id in taken.cancelled:
                replies.append(self._reply(claim, request, Failure("cancelled")))
            elif has_expired(claim, request, taken.now_ms):
                # Asked again if anybody waits after all: Redis' clock may have jumped.
                expired = Failure("nobody waits for the answer any longer", retryable=True)
                replies.append(self._reply(claim, request, expired))
            else:
                self.retried += request.attempt > 1
                open_requests.append((claim, request))
        if too_new:
            await self._leave_to_newer(too_new)
        if open_requests:
            began_s = self.work.began()
            with answering(_urgency_of(taken)):
                answers = await answers_to([request for _, request in open_requests], self._handler)
            self.work.ended(len(open_requests), began_s)
            self.last_batch_at_s = time.time()
            replies += (
                self._reply(claim, request, answer)
                for (claim, request), answer in zip(open_requests, answers, strict=True)
            )
        await self._deliver(replies)

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
        await self._bury_with(claim, reason, reply)

    async def _bury_with(self, claim: Claim, reason: str, reply: Reply | None) -> None:
        if await self._patiently(lambda: self._claims.bury(claim, reason, reply)):
            self.dead_lettered += 1
            job_id = claim.job_id.decode(errors="replace")
            with about(run=run_of(job_id)):
                logger.error(
                    "dead letter of %s: entry %s of job %s: %s",
                    self.agent, claim.entry_id.decode(), job_id, reason,
                )  # fmt: skip

    async def _park(self, claim: Claim, reason: str) -> None:
        reply = self._salvaged_reply(claim, reason)
        if await self._patiently(lambda: self._claims.park(claim, reason, reply)):
            self.parked += 1
            logger.error("%s: parked entry %s: %s", self.agent, claim.entry_id.decode(), reason)

    def _salvaged_reply(self, claim: Claim, reason: str) -> Reply | None:
        told = failure_for_unreadable(claim.payload, self.worker, reason)
        return Reply(claim, *told) if told else None

    async def _leave_to_newer(self, messages: Sequence[tuple[Claim, NewerVersionError]]) -> None:
        """For a worker of the next version, during a roll-out; bury what has waited too long."""
        shelves: dict[int, list[Claim]] = {}
        for claim, error in messages:
            if self._too_new.is_over(claim.entry_id):
                reason = f"{error}; no newer worker took it in {_NEWER_KEPT_S:g} s"
                await self._bury_with(claim, reason, self._salvaged_reply(claim, reason))
            else:
                shelves.setdefault(error.version, []).append(claim)
        for version, claims in shelves.items():
            await self._patiently(lambda c=claims, v=version: self._claims.shelve(c, v))  # type: ignore[misc]
            self.too_new += len(claims)
            logger.warning(
                "%s reads messages up to version %d: left %d of version %d to newer workers",
                self.name, self._reads_version, len(claims), version,
            )  # fmt: skip

    # --- in the background, and when Redis fails --------------------------------------------------

    async def _keep_alive(self) -> None:
        """Renew the leases of the batch in hand and show that this consumer lives."""
        interval_s = min(self._lease_s / 4, HEARTBEAT_INTERVAL_S)
        heartbeat_at_s = 0.0
        while True:
            try:
                if self._in_hand:
                    await self._claims.renew(list(self._in_hand.values()))
                now = time.monotonic()
                if now >= heartbeat_at_s:
                    ready = self._is_ready() and self._stopping_since_s is None
                    await show(self._redis, presence_of(self, ready))
                    heartbeat_at_s = now + HEARTBEAT_INTERVAL_S
                self.redis_is_away = False
            except RedisError as error:
                # The main loop is the one that waits, logs and recovers.
                logger.debug("%s: leases not renewed: %s", self.name, error)
                if key_is_misplaced(error):  # in the list of consumers: only seen here
                    with contextlib.suppress(RedisError):
                        await self._claims.make_room()
                self.redis_is_away = will_pass(error)
            await asyncio.sleep(interval_s)

    async def _sign_off(self) -> None:
        await vanish(self._redis, self.name)
        await self._claims.release_shelf()
        await self._claims.forget_us()

    async def _recover(self, error: RedisError) -> None:
        if group_is_missing(error):
            logger.warning("%s: Redis has lost the queue of %s; made anew", self.name, self.agent)
            await self._patiently(self._claims.create_groups)
        elif key_is_misplaced(error):
            logger.error("%s: moved aside what lay in our place: %s", self.name, error)
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


def _urgency_of(taken: Taken) -> Urgency:
    waited_for = any(claim.stream == INTERACTIVE for claim in taken.claims)
    return Urgency.INTERACTIVE if waited_for else Urgency.BENCHMARK
