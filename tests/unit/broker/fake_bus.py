"""An in-memory bus with agents behind it, for tests of the coordinator's side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from broker.agents_client import Priority
from shared.contracts.messages import Failure, ReplyMessage, RequestMessage
from shared.contracts.skills import Result

Handler = Callable[[RequestMessage], Result | Failure]
Plan = Callable[[RequestMessage, ReplyMessage], Sequence[ReplyMessage]]


def deliver(request: RequestMessage, reply: ReplyMessage) -> Sequence[ReplyMessage]:
    """The plan of a bus without mishaps: the reply comes once."""
    return [reply]


class FakeBus:
    """Answers every request by `handler`; `plan` says which replies of it arrive (lost: none).

    Attributes:
        sends: the message ids of each `send`, in order.
        held: when set to a list, replies are kept there until `release`.
        outages: raise it, and replies that were under way may be lost.
    """

    reply_to = "xr:reply:test"

    def __init__(self, handler: Handler, plan: Plan = deliver) -> None:
        self.handler = handler
        self.plan = plan
        self.sends: list[list[str]] = []
        self.requests: list[RequestMessage] = []
        self.held: list[ReplyMessage] | None = None
        self.outages = 0
        self._replies: asyncio.Queue[ReplyMessage] = asyncio.Queue()

    async def send(self, requests: Sequence[RequestMessage], priority: Priority = "lo") -> None:
        self.sends.append([request.message_id for request in requests])
        for request in requests:
            self.requests.append(request)
            body = self.handler(request)
            reply = ReplyMessage(message_id=request.message_id, worker="fake", body=body)
            for arriving in self.plan(request, reply):
                if self.held is None:
                    self._replies.put_nowait(arriving)
                else:
                    self.held.append(arriving)

    async def receive(self, timeout_s: float) -> Sequence[ReplyMessage]:
        try:
            replies = [await asyncio.wait_for(self._replies.get(), timeout_s)]
        except TimeoutError:
            return []
        while not self._replies.empty():
            replies.append(self._replies.get_nowait())
        return replies

    def release(self, order: Callable[[list[ReplyMessage]], list[ReplyMessage]]) -> int:
        """Let the held replies arrive in `order` of them; how many there were."""
        held, self.held = self.held or [], []
        for reply in order(held):
            self._replies.put_nowait(reply)
        return len(held)
