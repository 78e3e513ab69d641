"""Asks agents over the bus and hands each answer back to the `await` that waits for it."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Literal, Protocol

import msgspec
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared import tracing
from shared.contracts.messages import Failure, ReplyMessage, RequestMessage
from shared.contracts.skills import AGENT_OF, Request, Result
from shared.errors import ItemError, TransientError
from shared.settings import Settings
from shared.tasks import stop_tasks

logger = logging.getLogger(__name__)

Priority = Literal["hi", "lo"]

_LONGEST_LISTEN_S = 0.5
_FIRST_BACK_OFF_S = 0.1
_LONGEST_BACK_OFF_S = 5.0
_REDIS_IS_AWAY = (TransientError, RedisConnectionError, RedisTimeoutError)


class AgentsUnreachableError(TransientError):
    """There is no connection to the agents any more: nothing can be asked, of nobody."""


class Bus(Protocol):
    """What is needed of the message bus (`shared.bus.client.BusClient` has it)."""

    @property
    def reply_to(self) -> str:
        """The Redis list on which this client receives."""
        ...

    @property
    def outages(self) -> int:
        """How often the bus came back after it was away; what was under way may be lost."""
        ...

    async def send(self, requests: Sequence[RequestMessage], priority: Priority = "lo") -> None:
        """Put the requests on their agents' streams; waits while a stream is full."""
        ...

    async def receive(self, timeout_s: float) -> Sequence[ReplyMessage]:
        """The replies that have come; empty when none came within `timeout_s`."""
        ...


class Ask(Protocol):
    """One question to an agent, answered or raised; `AgentsClient.ask` is one."""

    async def __call__(self, query_id: str, step: str, part: str, body: Request) -> Result:
        """Raises: ItemError: the agent refused. TransientError: nobody answered."""
        ...


def tag_of(job_id: str, epoch: int) -> str:
    """The job id on messages: cancelling it stops one owner's messages, not its successor's."""
    return f"{job_id}/{epoch}"


class _Pending:
    """One unanswered request; `due` (clock seconds) is when to ask again."""

    __slots__ = ("due", "future", "request")

    def __init__(self, request: RequestMessage, future: asyncio.Future[Result]) -> None:
        self.request = request
        self.future = future
        self.due = float("inf")


class AgentsClient:
    """The coordinator's side of the bus; use as `async with AgentsClient(...) as agents`.

    Requests issued in the same tick of the event loop leave in one `send`, unless they would take
    more than a quarter of a stream. A request without an answer after `ask_timeout_s` is asked
    again under the same id (Redis may have lost it), at most `ask_attempts` times in all; after an
    outage of Redis everything is asked again at once, which is nobody's failed attempt. A second
    answer to an id is counted and ignored.

    Attributes:
        duplicates: replies ignored because nobody waited for their id (any more).
        asked_again: how often a request was sent another time.
        spent: what the answers have cost, by agent, see `ReplyMessage.spent`.
    """

    def __init__(
        self,
        bus: Bus,
        job_id: str,
        epoch: int,
        settings: Settings,
        priority: Priority = "lo",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.duplicates = 0
        self.asked_again = 0
        self.spent: dict[str, Counter[str]] = {}
        self._bus = bus
        self._tag = tag_of(job_id, epoch)
        self._settings = settings
        self._priority: Priority = priority
        # What is sent together must fit into a stream, and should not wait for it to be empty.
        self._most_at_once = max(1, settings.queue_limit // 4)
        self._clock = clock
        self._pending: dict[str, _Pending] = {}
        self._outbox: list[_Pending] = []
        self._posted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._broken: Exception | None = None

    async def __aenter__(self) -> AgentsClient:
        for loop in (self._send_forever(), self._receive_forever()):
            task = asyncio.create_task(loop)
            task.add_done_callback(self._loop_ended)
            self._tasks.append(task)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await stop_tasks(self._tasks)
        self._abandon(AgentsUnreachableError("the connection to the agents was closed"))

    async def ask(
        self, query_id: str, step: str, part: str, body: Request, *, prefers: str = ""
    ) -> Result:
        """The answer to `body`.

        The message id is "{job_id}/{epoch}/{query_id}/{step}/{part}": whoever asks the same thing
        again asks under the same id.

        Args:
            prefers: the consumer that others leave the request to while it lives.
        Raises:
            ItemError: the agent says that asking again will not help.
            TransientError: no answer, or only retryable failures, after all attempts.
            ValueError: this very request is under way already.
        """
        patience_s = self._settings.ask_timeout_s * self._settings.ask_attempts
        return await self._ask(2 * patience_s, query_id, step, part, body, prefers)

    def within(self, expires_after_s: float) -> Ask:
        """`ask` for somebody who waits so long and no longer: agents then leave it unworked."""
        return functools.partial(self._ask, expires_after_s)

    async def _ask(
        self,
        expires_after_s: float,
        query_id: str,
        step: str,
        part: str,
        body: Request,
        prefers: str = "",
    ) -> Result:
        if self._broken is not None:
            raise AgentsUnreachableError(f"the connection to the agents broke: {self._broken}")
        message_id = f"{self._tag}/{query_id}/{step}/{part}"
        if message_id in self._pending:
            raise ValueError(f"{message_id} is under way already: name the parts of a step apart")
        with tracing.span(f"ask {type(body).__name__}", **{"xr.message": message_id}):
            request = RequestMessage(
                message_id=message_id,
                job_id=self._tag,
                query_id=query_id,
                reply_to=self._bus.reply_to,
                body=body,
                expires_after_s=expires_after_s,
                traceparent=tracing.traceparent() or msgspec.UNSET,
                prefers=prefers or msgspec.UNSET,
            )
            return await self._answer_to(request)

    async def _answer_to(self, request: RequestMessage) -> Result:
        pending = _Pending(request, asyncio.get_running_loop().create_future())
        self._pending[request.message_id] = pending
        self._post(pending)
        try:
            return await pending.future
        finally:
            self._pending.pop(request.message_id, None)

    def _post(self, pending: _Pending) -> None:
        self._outbox.append(pending)
        self._posted.set()

    async def _send_forever(self) -> None:
        back_off_s = _FIRST_BACK_OFF_S
        while True:
            await self._posted.wait()
            self._posted.clear()
            posted, self._outbox = self._outbox, []
            live = [pending for pending in posted if not pending.future.done()]
            if not live:
                continue
            requests = [pending.request for pending in live]
            try:
                for first in range(0, len(requests), self._most_at_once):
                    await self._bus.send(
                        requests[first : first + self._most_at_once], self._priority
                    )
            except _REDIS_IS_AWAY as error:
                logger.warning("sending failed (%s), trying again in %.1f s", error, back_off_s)
                await asyncio.sleep(back_off_s)
                back_off_s = min(2 * back_off_s, _LONGEST_BACK_OFF_S)
                self._outbox[:0] = live
                self._posted.set()
                continue
            back_off_s = _FIRST_BACK_OFF_S
            due = self._clock() + self._settings.ask_timeout_s
            for pending in live:
                pending.due = due

    async def _receive_forever(self) -> None:
        listen_s = min(_LONGEST_LISTEN_S, self._settings.ask_timeout_s / 4)
        next_sweep = self._clock() + listen_s
        back_off_s = _FIRST_BACK_OFF_S
        outages = self._bus.outages
        while True:
            try:
                replies = await self._bus.receive(listen_s)
            except _REDIS_IS_AWAY as error:
                logger.warning("receiving failed (%s), trying again in %.1f s", error, back_off_s)
                await asyncio.sleep(back_off_s)
                back_off_s = min(2 * back_off_s, _LONGEST_BACK_OFF_S)
                continue
            back_off_s = _FIRST_BACK_OFF_S
            for reply in replies:
                self._settle(reply)
            if self._bus.outages != outages:
                outages = self._bus.outages
                self._ask_everything_again()
            now = self._clock()
            if now >= next_sweep:
                next_sweep = now + listen_s
                for pending in [late for late in self._pending.values() if late.due <= now]:
                    self._ask_again(pending, "no answer", after_s=0.0)

    def _ask_everything_again(self) -> None:
        sent = [pending for pending in self._pending.values() if pending.due < float("inf")]
        if sent:
            logger.warning("Redis was away: %d requests under way are asked again", len(sent))
        for pending in sent:
            self.asked_again += 1
            pending.due = float("inf")
            self._post(pending)

    def _settle(self, reply: ReplyMessage) -> None:
        pending = self._pending.get(reply.message_id)
        if pending is not None and reply.spent:
            agent = AGENT_OF[type(pending.request.body)]
            self.spent.setdefault(agent, Counter()).update(reply.spent)
        if pending is None or pending.future.done():
            self.duplicates += 1
        elif not isinstance(reply.body, Failure):
            pending.future.set_result(reply.body)
        elif not reply.body.retryable:
            pending.future.set_exception(ItemError(reply.body.reason))
        else:
            back_off_s = _FIRST_BACK_OFF_S * 2.0 ** (pending.request.attempt - 1)
            self._ask_again(pending, reply.body.reason, min(back_off_s, _LONGEST_BACK_OFF_S))

    def _ask_again(self, pending: _Pending, reason: str, after_s: float) -> None:
        attempts = pending.request.attempt
        if attempts >= self._settings.ask_attempts:
            agent = AGENT_OF[type(pending.request.body)]
            skill = type(pending.request.body).__name__
            pending.future.set_exception(
                TransientError(f"{agent} agent, {skill}: {reason} ({attempts} times asked)")
            )
            return
        self.asked_again += 1
        pending.due = float("inf")
        pending.request = msgspec.structs.replace(pending.request, attempt=attempts + 1)
        asyncio.get_running_loop().call_later(after_s, self._post, pending)

    def _loop_ended(self, task: asyncio.Task[Any]) -> None:
        """A dead loop fails everyone who waits; else they would wait for ever."""
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            logger.error("the connection to the agents broke", exc_info=error)
            self._broken = error
            self._abandon(AgentsUnreachableError(f"the connection to the agents broke: {error}"))

    def _abandon(self, error: AgentsUnreachableError) -> None:
        for pending in self._pending.values():
            if not pending.future.done():
                pending.future.set_exception(error)
