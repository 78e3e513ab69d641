"""A dialogue through the coordinator: nothing said in any round is lost, whatever fails."""

from __future__ import annotations

import asyncio
import random

import pytest
from msgspec.structs import replace

from broker.query_state import QueryState, encode_state
from broker.replay import replay
from shared.contracts.messages import Failure, RequestMessage
from shared.contracts.skills import (
    CompareCandidates,
    ImagineImage,
    ImagineText,
    ProposeQuestions,
    RankGallery,
    Result,
)
from shared.datasets import Query
from shared.knobs import Knobs
from tests.unit.broker.recorded_world import SPACE, RankingAgents, live_states, random_gallery

GALLERY = random_gallery()
KNOBS = Knobs(stages=("coarse", "verify", "compare"), top_k=8, rank_depth=20)
TEXTS = ("a dog on a couch", "is it brown? yes", "is it asleep? no", "is there a cat? no")


def dialogue(name: str = "d", texts: tuple[str, ...] = TEXTS) -> list[Query]:
    return [
        Query(
            query_id=f"{name}/{n}", reference_id=None, modification_text=text, target_ids=("3",),
            dialogue_id=name, round=n, previous_id=f"{name}/{n - 1}" if n else "",
        )
        for n, text in enumerate(texts)
    ]  # fmt: skip


async def answered(
    queries: list[Query], knobs: Knobs = KNOBS
) -> tuple[dict[str, QueryState], RankingAgents]:
    agents = RankingAgents(GALLERY)
    return await live_states(queries, knobs, agents), agents


async def test_every_round_hands_its_description_on_and_no_text_is_forgotten() -> None:
    states, agents = await answered(dialogue())
    imagined = [body for body in agents.asked if isinstance(body, ImagineText)]
    assert [body.modification_text for body in imagined] == list(TEXTS)
    assert [body.previous_description for body in imagined] == [
        "", *[states[f"d/{n}"].description for n in range(3)],
    ]  # fmt: skip
    assert all(body.reference_caption == "" for body in imagined)
    for n in range(4):
        state = states[f"d/{n}"]
        assert state.text is not None
        assert state.image is not None
        for text in TEXTS[: n + 1]:
            assert text in state.description
            assert text in state.image.caption
    whole = " ".join(TEXTS).replace("couch is", "couch. is").replace("s is", "s. is")
    whole = whole.replace("no is", "no. is")
    for kind in (ImagineImage, ProposeQuestions):
        last = [body for body in agents.asked if isinstance(body, kind)][-1]
        assert last.modification_text == whole
    ranked = [body for body in agents.asked if isinstance(body, RankGallery)][-1]
    assert ranked.text_sets["text"] == (whole,)
    assert not any(isinstance(body, CompareCandidates) for body in agents.asked)


async def test_after_a_failed_round_the_next_goes_on_from_the_last_description() -> None:
    texts = (TEXTS[0], "refuse this", *TEXTS[2:])

    class Agents(RankingAgents):
        def __call__(self, request: RequestMessage) -> Result | Failure:
            if request.query_id == "d/1":
                return Failure("the model refuses")
            return super().__call__(request)

    agents = Agents(GALLERY)
    states = await live_states(dialogue(texts=texts), KNOBS, agents)
    assert [states[f"d/{n}"].status for n in range(4)] == ["ok", "failed", "ok", "ok"]
    imagined = [body for body in agents.asked if isinstance(body, ImagineText)]
    assert imagined[1].previous_description == states["d/0"].description
    assert imagined[1].modification_text == f"refuse this. {TEXTS[2]}"
    assert "refuse this" in states["d/3"].description


@pytest.mark.parametrize("switched_off", ["imagine_text", "imagine_image", "both"])
async def test_with_an_imagination_left_out_the_dialogue_is_still_whole(switched_off: str) -> None:
    off = {"imagine_text", "imagine_image"} if switched_off == "both" else {switched_off}
    knobs = replace(KNOBS, **dict.fromkeys(off, False))
    states, agents = await answered(dialogue(), knobs)
    assert all(state.status == "ok" for state in states.values())
    ranked = [body for body in agents.asked if isinstance(body, RankGallery)][-1]
    used = {one.text_set for one in ranked.lists}
    for name in used:
        assert all(any(text in one for one in ranked.text_sets[name]) for text in TEXTS), name


async def test_a_run_resumed_in_mid_dialogue_uses_the_recorded_states() -> None:
    queries = [*dialogue("d"), *dialogue("e", TEXTS[::-1])]
    whole, _ = await answered(queries)
    for kept in range(len(queries)):
        begun = {query.query_id: whole[query.query_id] for query in queries[:kept]}
        again = await live_states(queries, KNOBS, RankingAgents(GALLERY), window=2, states=begun)
        assert {key: encode_state(state) for key, state in again.items()} == {
            key: encode_state(state) for key, state in whole.items()
        }


async def test_the_window_changes_nothing() -> None:
    queries = [query for name in "abcdef" for query in dialogue(name)]
    random.Random(1).shuffle(queries)
    one = await live_states(queries, KNOBS, RankingAgents(GALLERY), window=1)
    many = await live_states(queries, KNOBS, RankingAgents(GALLERY), window=50)
    assert one == many


def test_a_dialogue_is_replayed_bit_for_bit() -> None:
    queries = dialogue()
    states, _ = asyncio.run(answered(queries))
    again = replay(states, queries, SPACE, KNOBS, GALLERY)
    assert again.coverage == 1
    assert again.states == states
