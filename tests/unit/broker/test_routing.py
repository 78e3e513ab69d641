"""How questions about images are split among workers, and joined again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from broker.routing import Routing, preferred
from shared.bus.records import LiveAgent
from shared.contracts.skills import (
    Answers,
    CandidatesVerified,
    ProposeQuestions,
    QuestionsProposed,
    Request,
    Result,
    VerifyImages,
)
from shared.errors import ItemError, TransientError

ROWS = tuple(range(40, 0, -1))
BODY = VerifyImages("g" * 32, ROWS, ("Is it red?",))


class Asked:
    """Answers with the row itself as P(yes), and notes what it was asked."""

    def __init__(self, too_few: int = 0) -> None:
        self.requests: list[tuple[str, Request, str]] = []
        self._too_few = too_few

    async def __call__(
        self, query_id: str, step: str, part: str, body: Request, *, prefers: str = ""
    ) -> Result:
        self.requests.append((part, body, prefers))
        await asyncio.sleep(0)
        if not isinstance(body, VerifyImages):
            return QuestionsProposed(())
        rows = body.rows[self._too_few :]
        return CandidatesVerified(tuple(Answers((row / 100,)) for row in rows))


def living(*consumers: str, agent: str = "question", ready: bool = True) -> list[LiveAgent]:
    return [
        LiveAgent(
            agent=agent, worker="w", consumer=consumer, identity="", in_flight=0, processed=0,
            failures=0, batches=0, started_at_s=0.0, last_batch_at_s=None, ready=ready,
        )
        for consumer in consumers
    ]  # fmt: skip


def routing(asked: Asked, roster: Sequence[LiveAgent]) -> Routing:
    async def live_agents() -> Sequence[LiveAgent]:
        return roster

    return Routing(asked, live_agents, lambda row: f"hash of {row}")


async def test_every_image_goes_to_the_worker_it_prefers_and_answers_come_in_order() -> None:
    asked = Asked()
    result = await routing(asked, living("a", "b", "c"))("q", "verify_image", "7", BODY)
    assert result == CandidatesVerified(tuple(Answers((row / 100,)) for row in ROWS))
    assert {prefers for _, _, prefers in asked.requests} == {"a", "b", "c"}
    assert len({part for part, _, _ in asked.requests}) == 3
    for _, body, prefers in asked.requests:
        assert isinstance(body, VerifyImages)
        assert body.questions == BODY.questions
        assert {preferred(f"hash of {row}", ("a", "b", "c")) for row in body.rows} == {prefers}
    assert Counter(row for _, body, _ in asked.requests for row in body.rows) == Counter(ROWS)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "roster",
    [[], living("a"), living("a", "b", agent="imagination"), living("a", "b", ready=False)],
)
async def test_without_two_workers_that_take_requests_nothing_is_split(
    roster: Sequence[LiveAgent],
) -> None:
    asked = Asked()
    await routing(asked, roster)("q", "verify_image", "7", BODY)
    assert asked.requests == [("7", BODY, "")]


async def test_other_requests_are_asked_as_they_are() -> None:
    asked = Asked()
    body = ProposeQuestions("make it red", (), (), (), 3)
    await routing(asked, living("a", "b"))("q", "propose", "0", body)
    assert asked.requests == [("0", body, "")]


async def test_answers_that_are_too_few_are_refused() -> None:
    with pytest.raises(ItemError, match="answers about"):
        await routing(Asked(too_few=1), living("a", "b"))("q", "verify_image", "7", BODY)


async def test_while_nobody_can_say_who_lives_the_last_answer_counts() -> None:
    async def broken() -> Sequence[LiveAgent]:
        raise TransientError("Redis is away")

    asked = Asked()
    await Routing(asked, broken, str)("q", "verify_image", "7", BODY)
    assert asked.requests == [("7", BODY, "")]


def test_when_a_worker_goes_only_its_images_move() -> None:
    images = [f"image {number}" for number in range(3000)]
    before = {image: preferred(image, ("a", "b", "c")) for image in images}
    after = {image: preferred(image, ("a", "c")) for image in images}
    moved = {image for image in images if before[image] != after[image]}
    assert moved == {image for image in images if before[image] == "b"}
    assert all(900 < count < 1100 for count in Counter(before.values()).values())
