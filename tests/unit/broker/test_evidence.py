"""Why an image is where it is: everything said of a hit, checked against the state it came from."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from broker.evidence import Evidence, evidence_of
from broker.query_state import QueryState
from broker.stages import coarse_ranking, rankings_by_stage
from shared.datasets import Query
from shared.knobs import Knobs
from shared.ranking import decode_list
from tests.unit.broker.recorded_world import RankingAgents, live_states, random_gallery

KNOBS = Knobs(
    stages=("coarse", "verify", "compare"), top_k=10, num_questions=3, compare_top=4,
    record_lists=("text.textual",),
)  # fmt: skip
BROKEN = frozenset({9})
QUERY = Query(query_id="q", reference_id="3", modification_text="at night", target_ids=("5",))


def answered(knobs: Knobs = KNOBS) -> QueryState:
    agents = RankingAgents(random_gallery(), broken_rows=BROKEN)
    return asyncio.run(live_states([QUERY], knobs, agents))["q"]


@pytest.fixture(scope="module")
def state() -> QueryState:
    return answered()


def told(state: QueryState, knobs: Knobs = KNOBS, k: int = 30, stage: str = "") -> Evidence:
    return evidence_of(state, knobs, k, str, lambda row: f"caption {row}", stage=stage)


def test_hits_are_the_last_stage_with_their_coarse_places(state: QueryState) -> None:
    found = told(state)
    ranking = list(rankings_by_stage(state, KNOBS)["compared"])
    coarse = [row for row, _ in coarse_ranking(state.lists, KNOBS)]
    assert found.stage == "compared"
    assert [hit.image_id for hit in found.hits] == [str(row) for row in ranking[:30]]
    for rank, hit in enumerate(found.hits, start=1):
        assert hit.rank == rank
        assert hit.coarse_rank == coarse.index(int(hit.image_id)) + 1
        assert hit.caption == f"caption {hit.image_id}"


def test_an_earlier_stage_can_be_told(state: QueryState) -> None:
    found = told(state, stage="coarse")
    assert [hit.coarse_rank for hit in found.hits] == list(range(1, 31))
    scores = [hit.coarse_score or 0.0 for hit in found.hits]
    assert scores == sorted(scores, reverse=True)


def test_ranks_in_the_lists_are_those_of_the_lists(state: QueryState) -> None:
    found = told(state)
    lists = {one.name: decode_list(one).rows.tolist() for one in state.lists}
    assert {"v1.hybrid", "v2.hybrid", "aug.hybrid", "text.textual"} <= lists.keys()
    for hit in found.hits:
        for name, rows in lists.items():
            row = int(hit.image_id)
            assert hit.ranks.get(name) == (rows.index(row) + 1 if row in rows else None)


def test_a_recorded_list_weighs_nothing_and_a_search_shows_its_own_weights(
    state: QueryState,
) -> None:
    by_name = {one.name: one.weight for one in told(state).lists}
    assert by_name["v1.hybrid"] == 1.0
    assert by_name["text.textual"] == 0.0
    weighed = evidence_of(
        state, KNOBS, 3, str, lambda _: None, weights={"v1.hybrid": 2.0, "v2.hybrid": -1.0}
    )
    assert {one.name: one.weight for one in weighed.lists} == {
        "v1.hybrid": 2.0, "v2.hybrid": -1.0, "aug.hybrid": 0.0, "text.textual": 0.0,
    }  # fmt: skip


def test_answers_are_there_for_the_head_only_and_make_the_scores(state: QueryState) -> None:
    found = told(state)
    for hit in found.hits:
        in_head = (hit.coarse_rank or 99) <= KNOBS.top_k and int(hit.image_id) not in BROKEN
        assert (hit.image_answers is not None) == in_head
        if hit.image_answers is not None:
            satisfied = [
                (answer >= 0.5) == one.expected
                for answer, one in zip(hit.image_answers, found.propositions, strict=True)
            ]
            assert hit.image_score == pytest.approx(sum(satisfied) / 3)
            assert hit.final_score is not None
    compared = [hit for hit in found.hits if hit.comparison is not None]
    assert 0 < len(compared) <= 4


def test_a_candidate_that_failed_is_named_with_the_reason() -> None:
    knobs = replace(KNOBS, top_k=70)
    found = told(answered(knobs), knobs)
    assert {(one.image_id, one.reason) for one in found.failures} == {("9", "broken")}
    assert {one.skill for one in found.failures} >= {"verify_image", "verify_caption"}


def test_what_was_imagined_is_told_and_what_was_switched_off_is_none(state: QueryState) -> None:
    imagined = told(state).imagination
    assert imagined.text is not None
    assert imagined.image is not None
    assert imagined.image.caption == "at night of row 3"
    knobs = replace(KNOBS, imagine_image=False)
    without = told(answered(knobs), knobs)
    assert without.imagination.image is None
    assert {one.name for one in without.lists} == {"v1.hybrid", "text.textual"}


def test_a_state_that_only_ranked_has_evidence_too(state: QueryState) -> None:
    ranked = replace(
        state, propositions=(), image_answers=None, caption_answers=None, comparisons=None
    )
    found = told(ranked, stage="coarse", k=5)
    assert len(found.hits) == 5
    assert all(hit.image_answers is None and hit.final_score is None for hit in found.hits)
