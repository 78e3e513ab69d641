"""One query: what is asked, in which order, and that the answer depends on nothing else."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.agents_client import AgentsClient
from broker.coordinator import SearchSpace, answer_query
from broker.query_state import QueryState, decode_state, encode_state
from broker.stages import rankings_by_stage, subset_rankings_by_stage
from shared.contracts.messages import Failure, ReplyMessage, RequestMessage
from shared.contracts.skills import (
    AGENT_OF,
    ImagineImage,
    ImagineText,
    QuestionsProposed,
    RankGallery,
    Result,
    VerifyImages,
)
from shared.datasets import Query
from shared.errors import ItemError
from shared.knobs import Knobs
from shared.settings import Settings
from tests.unit.broker.fake_agents import FakeAgents
from tests.unit.broker.fake_bus import FakeBus, Plan, deliver

KNOBS = Knobs(
    stages=("coarse", "verify", "compare"),
    top_k=20,
    compare_top=5,
    compare_order="probability",
    baselines=True,
)
QUERY = Query(query_id="q1", reference_id="7", modification_text="make it red", target_ids=("3",))


def space(exclude_reference: bool = True) -> SearchSpace:
    return SearchSpace(
        gallery="g",
        database="d",
        row_of=int,
        caption_of=lambda row: None if row == 13 else f"caption of image {row}",
        exclude_reference=exclude_reference,
        verify_chunk=6,
    )


async def answer(
    query: Query = QUERY,
    knobs: Knobs = KNOBS,
    handler: FakeAgents | None = None,
    plan: Plan = deliver,
    timeout_s: float = 60.0,
) -> tuple[QueryState, FakeBus]:
    bus = FakeBus(handler or FakeAgents(), plan)
    async with AgentsClient(bus, "run", 1, Settings(ask_timeout_s=timeout_s)) as agents:
        return await answer_query(query, agents.ask, space(), knobs), bus


def steps(bus: FakeBus) -> list[list[str]]:
    """The steps of each send."""
    return [sorted({message_id.split("/")[3] for message_id in send}) for send in bus.sends]


async def test_a_query_goes_through_the_stages_with_all_that_can_be_at_once_at_once() -> None:
    state, bus = await answer()
    assert steps(bus) == [
        ["imagine_image", "imagine_text"],
        ["propose", "rank"],
        ["verify_caption", "verify_image"],
        ["compare"],
    ]
    rankings = rankings_by_stage(state, KNOBS)
    assert list(rankings) == [
        "v1.hybrid", "v2.hybrid", "aug.hybrid", "image_only", "text_only", "image_text_sum",
        "coarse", "verified", "compared",
    ]  # fmt: skip
    assert sorted(rankings["verified"][:20]) == sorted(rankings["coarse"][:20])
    assert rankings["verified"][:20] != rankings["coarse"][:20]
    assert rankings["verified"][20:] == rankings["coarse"][20:]
    assert rankings["compared"][:5] != rankings["verified"][:5]
    assert sorted(rankings["compared"]) == sorted(rankings["verified"])
    assert all(7 not in ranking for ranking in rankings.values()), "the reference is excluded"


async def test_the_candidates_are_verified_in_chunks_all_sent_together() -> None:
    _, bus = await answer()
    sizes = [len(r.body.rows) for r in bus.requests if isinstance(r.body, VerifyImages)]
    assert sizes == [6, 6, 6, 2]
    assert len(bus.sends[2]) == 8


async def test_a_state_survives_its_bytes_and_the_bytes_are_always_the_same() -> None:
    state, _ = await answer(handler=FakeAgents(broken_rows=frozenset({2, 5, 51})))
    again, _ = await answer(handler=FakeAgents(broken_rows=frozenset({2, 5, 51})))
    assert encode_state(state) == encode_state(again)
    assert decode_state(encode_state(state)) == state
    assert len(encode_state(state)) < 20_000


class _Mischief:
    """Replies come late, twice, in any order, or not at all the first time."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def __call__(self, request: RequestMessage, reply: ReplyMessage) -> list[ReplyMessage]:
        if request.attempt == 1 and self.random.random() < 0.1:
            return []
        return [reply] * self.random.choice((1, 1, 1, 2, 3))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_answer_is_independent_of_order_loss_and_duplicates_of_replies(seed: int) -> None:
    async def with_mischief() -> QueryState:
        mischief = _Mischief(seed)
        bus = FakeBus(FakeAgents(), mischief)
        bus.held = []
        client = AgentsClient(bus, "run", 1, Settings(ask_timeout_s=0.02, ask_attempts=50))
        async with client as agents:
            asking = asyncio.create_task(answer_query(QUERY, agents.ask, space(), KNOBS))
            while not asking.done():
                bus.release(lambda held: mischief.random.sample(held, len(held)))
                await asyncio.sleep(0.001)
            return asking.result()

    assert encode_state(asyncio.run(with_mischief())) == encode_state(_expected())


def _expected() -> QueryState:
    return asyncio.run(answer())[0]


async def test_without_a_reference_the_text_alone_is_imagined_from() -> None:
    query = Query(query_id="q", reference_id=None, modification_text="a red car", target_ids=())
    state, bus = await answer(query)
    bodies = [request.body for request in bus.requests]
    assert ImagineText("a red car", reference_caption="") in bodies
    assert ImagineImage("a red car") in bodies
    assert state.comparisons is None, "there is nothing to compare with"
    rankings = rankings_by_stage(state, KNOBS)
    assert rankings["compared"] == rankings["verified"]


@pytest.mark.parametrize(
    ("switched_off", "texts"),
    [("imagine_text", {"v2", "text"}), ("imagine_image", {"v1", "text"})],
)
async def test_an_imagination_can_be_left_out(switched_off: str, texts: set[str]) -> None:
    knobs = Knobs(**{switched_off: False})  # type: ignore[arg-type]
    state, bus = await answer(knobs=knobs)
    assert switched_off not in {step for send in steps(bus) for step in send}
    ranked = next(r.body for r in bus.requests if isinstance(r.body, RankGallery))
    assert {name for name in ranked.text_sets if name != "aug"} == texts
    assert rankings_by_stage(state, knobs)["verified"]


async def test_the_subset_is_ranked_and_verified_whole() -> None:
    query = Query(
        query_id="q", reference_id="7", modification_text="make it red",
        target_ids=("3",), subset_ids=("1", "3", "5", "58", "59"),
    )  # fmt: skip
    knobs = Knobs(top_k=10)
    state, bus = await answer(query, knobs)
    verified = {
        row for r in bus.requests if isinstance(r.body, VerifyImages) for row in r.body.rows
    }
    assert {1, 3, 5, 58, 59} <= verified
    assert len(verified) <= 15
    subset = subset_rankings_by_stage(state, knobs)
    assert sorted(subset["verified"]) == [1, 3, 5, 58, 59]
    assert len(rankings_by_stage(state, knobs)["verified"]) == 59, "the gallery less the reference"


async def test_candidates_that_fail_are_named_and_the_others_are_ranked() -> None:
    broken = frozenset({2, 5, 51})
    state, _ = await answer(handler=FakeAgents(broken_rows=broken))
    coarse = rankings_by_stage(state, KNOBS)["coarse"][:20]
    named = {row for _, row, reason in state.item_failures if reason == "broken"}
    assert named == broken & set(coarse)
    assert named, "the case would show nothing"


async def test_without_propositions_the_coarse_ranking_stands() -> None:
    class Silent(FakeAgents):
        def __call__(self, request: RequestMessage) -> Result | Failure:
            answer = super().__call__(request)
            return (
                QuestionsProposed((), parsed=False)
                if isinstance(answer, QuestionsProposed)
                else answer
            )

    knobs = Knobs(top_k=20)
    state, _ = await answer(knobs=knobs, handler=Silent())
    rankings = rankings_by_stage(state, knobs)
    assert rankings["verified"] == rankings["coarse"]
    assert state.fallbacks == ("propose",)


@pytest.mark.parametrize(
    ("reference", "text", "reason"),
    [
        ("7", " ", "no modification text"),
        ("13", "make it red", "13 has no caption"),
        ("7", "refuse this", "the model refuses"),
    ],
)
async def test_a_query_that_cannot_be_answered_says_why(
    reference: str, text: str, reason: str
) -> None:
    query = Query(query_id="q", reference_id=reference, modification_text=text, target_ids=())
    with pytest.raises(ItemError, match=reason):
        await answer(query)


async def test_an_answer_of_the_wrong_kind_or_length_is_an_error() -> None:
    class Short(FakeAgents):
        def __call__(self, request: RequestMessage) -> Result | Failure:
            answer = super().__call__(request)
            if isinstance(request.body, VerifyImages):
                return type(answer)(answer.results[:-1])  # type: ignore[call-arg, union-attr]
            return answer

    with pytest.raises(ItemError, match="5 answers about 6 candidates"):
        await answer(handler=Short())
    assert set(AGENT_OF.values()) == {"imagination", "similarity", "question"}


EARLY_KNOBS: list[dict[str, object]] = [
    {},
    {"scoring": "soft"},
    {"verify_mode": "visual"},
    {"verify_mode": "textual"},
    {"visual_weight": 0.2, "textual_weight": 0.9},
    {"fusion": "interleave"},
    {"fusion": "sum", "scoring": "soft"},
    {"fusion": "none", "retrieve_texts": ("aug",)},
]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    depth=st.integers(1, 12),
    changed=st.sampled_from(EARLY_KNOBS),
    broken=st.frozensets(st.integers(0, 59), max_size=20),
    subset=st.booleans(),
)
def test_early_stop_gives_the_best_of_full_verification_and_the_same_bytes_in_any_order(
    seed: int, depth: int, changed: dict[str, object], broken: frozenset[int], subset: bool
) -> None:
    full = Knobs(top_k=30, **changed)  # type: ignore[arg-type]
    early = Knobs(top_k=30, verify_depth=depth, **changed)  # type: ignore[arg-type]
    query = Query(
        query_id="q", reference_id="7", modification_text=f"make it {seed % 97}",
        target_ids=("3",), subset_ids=("1", "3", "5", "58", "59") if subset else (),
    )  # fmt: skip

    async def in_any_order() -> QueryState:
        mischief = random.Random(seed)
        bus = FakeBus(FakeAgents(broken_rows=broken - {7}))
        bus.held = []
        async with AgentsClient(bus, "run", 1, Settings()) as agents:
            asking = asyncio.create_task(answer_query(query, agents.ask, space(), early))
            while not asking.done():
                bus.release(lambda held: mischief.sample(held, len(held)))
                await asyncio.sleep(0)
            return asking.result()

    agents = FakeAgents(broken_rows=broken - {7})
    whole, _ = asyncio.run(answer(query, full, agents))
    part, _ = asyncio.run(answer(query, early, agents))
    best = rankings_by_stage(whole, full)["verified"][:depth]
    assert rankings_by_stage(part, early)["verified"][:depth] == best
    assert rankings_by_stage(whole, early)["verified"] == rankings_by_stage(part, early)["verified"]
    assert subset_rankings_by_stage(part, early) == subset_rankings_by_stage(whole, full)
    assert encode_state(asyncio.run(in_any_order())) == encode_state(part)


async def test_early_stop_spares_candidates_and_settles_those_that_are_compared() -> None:
    full, early = Knobs(top_k=50), Knobs(top_k=50, verify_depth=3)
    whole, _ = await answer(knobs=full)
    part, bus = await answer(knobs=early)
    assert part.image_answers is not None and whole.image_answers is not None
    assert len(part.image_answers.table()[0]) < len(whole.image_answers.table()[0])
    asked = sum(len(r.body.rows) for r in bus.requests if isinstance(r.body, VerifyImages))
    assert asked < 50, "what is not needed is not asked about"
    compared = Knobs(
        top_k=50, verify_depth=3, compare_top=6, stages=("coarse", "verify", "compare")
    )
    state, _ = await answer(knobs=compared)
    rankings = rankings_by_stage(state, compared)
    assert rankings["verified"][:6] == rankings_by_stage(whole, full)["verified"][:6]


async def test_early_stop_fails_by_what_it_needs() -> None:
    class RefusesSome(FakeAgents):
        refused = frozenset[int]()

        def __call__(self, request: RequestMessage) -> Result | Failure:
            if isinstance(request.body, VerifyImages) and self.refused & set(request.body.rows):
                return Failure("no such image")
            return super().__call__(request)

    early = Knobs(top_k=50, verify_depth=3)
    agents = RefusesSome()
    state, _ = await answer(knobs=early, handler=agents)
    assert state.image_answers is not None
    needed = set(state.image_answers.table()[0].tolist())
    agents.refused = frozenset({next(iter(needed))})
    with pytest.raises(ItemError, match="no such image"):
        await answer(knobs=early, handler=agents)
