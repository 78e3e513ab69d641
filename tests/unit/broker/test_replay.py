"""Replay gives what a live run would have recorded, and a sweep what the replays give: exactly."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from broker.evaluation import evaluate_run, predictions, rank_run
from broker.query_state import QueryState, decode_state, encode_state
from broker.recorded_answers import NOT_ASKED
from broker.replay import Replayed, check_replayable, replay
from broker.sweep import Grid, combinations, sweep, with_fusion
from shared.datasets import Benchmark, Protocol
from shared.errors import ConfigurationError
from shared.knobs import Knobs
from tests.unit.broker.recorded_world import (
    SPACE,
    RandomGallery,
    RankingAgents,
    image_id,
    live_states,
    queries,
    random_gallery,
)

GALLERY, WITH_CAPTIONS = random_gallery(), random_gallery(without_caption=())
QUERIES = queries()
BROKEN = frozenset({2, 9, 31})
RECORDED = Knobs(
    stages=("coarse", "verify", "compare"), top_k=80, num_questions=5, compare_top=80,
    baselines=True, record_lists=("v1.visual", "text.textual"), rank_depth=80,
)  # fmt: skip
"""Every candidate is verified and compared, so that any replay finds all answers."""
PROTOCOL = Protocol(exclude_reference=True, recall_ks=(1, 5, 10), map_ks=(5, 10), subset_ks=(1, 2))


def run_live(knobs: Knobs, gallery: RandomGallery = GALLERY) -> dict[str, QueryState]:
    agents = RankingAgents(gallery, broken_rows=BROKEN)
    return asyncio.run(live_states(QUERIES, knobs, agents))


@pytest.fixture(scope="module")
def recorded() -> dict[str, QueryState]:
    return run_live(RECORDED)


def replayed(recorded: dict[str, QueryState], knobs: Knobs, **options: Any) -> Replayed:
    check_replayable(RECORDED, knobs, options.get("after", "imagination"))
    return replay(recorded, QUERIES, SPACE, knobs, GALLERY, **options)


def bytes_of(states: dict[str, QueryState]) -> dict[str, bytes]:
    return {query_id: encode_state(state) for query_id, state in states.items()}


def predicted(states: dict[str, QueryState], knobs: Knobs) -> list[str]:
    """The lines of predictions.jsonl."""
    rankings = rank_run(states, knobs)
    lines = predictions(QUERIES, states, rankings, knobs, image_id)
    return [json.dumps(line) for line in lines]


CHANGED: list[dict[str, Any]] = [
    {},
    {"fusion": "sum"},
    {"fusion": "interleave"},
    {"fusion": "none", "retrieve_texts": ("aug",)},
    {"text_weight": 0.0},
    {"text_weight": 1.0},
    {"text_weight": 0.62},
    {"top_k": 3},
    {"num_questions": 1},
    {"num_questions": 4, "top_k": 11},
    {"visual_weight": 0.9, "textual_weight": 0.3},
    {"verify_mode": "visual"},
    {"verify_mode": "textual", "scoring": "soft"},
    {"rrf_k": 7},
    {"head_source": "v2"},
    {"list_kinds": ("visual", "textual")},
    {"retrieve_texts": ("v1", "text")},
    {"rank_depth": 90},
    {"rank_depth": 20, "top_k": 15},
    {"exclude_reference": True},
    {"baselines": False, "record_lists": ()},
    {"stages": ("coarse",)},
    {"stages": ("coarse",), "imagine_text": False},
    {"stages": ("coarse", "compare"), "compare_top": 4},
    {"compare_top": 3, "compare_order": "probability"},
    {"compare_top": 7, "compare_order": "fused"},
    {"verify_depth": 4, "stages": ("coarse", "verify")},
    {"verify_depth": 2, "compare_top": 6},
    {"verify_depth": 5, "scoring": "soft", "fusion": "sum", "top_k": 40, "compare_top": 3},
]


@pytest.mark.parametrize("changed", CHANGED, ids=str)
def test_a_replay_is_the_live_run_bit_for_bit(changed: dict[str, Any]) -> None:
    before = replace(RECORDED, exclude_reference=False)
    knobs = replace(before, **changed)
    live = run_live(knobs, WITH_CAPTIONS)
    recorded = run_live(before, WITH_CAPTIONS)
    again = replay(recorded, QUERIES, SPACE, knobs, WITH_CAPTIONS)
    assert again.coverage == 1
    assert bytes_of(again.states) == bytes_of(live)
    assert predicted(again.states, knobs) == predicted(live, knobs)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"fusion": "sum", "top_k": 9},
        {"baselines": False},
        {"scoring": "soft"},
    ],
    ids=str,
)
def test_after_ranking_the_recorded_lists_give_the_same(
    recorded: dict[str, QueryState], changed: dict[str, Any]
) -> None:
    knobs = replace(RECORDED, **changed)
    fused_only = {
        query_id: replace(state, text_embeddings={}) for query_id, state in recorded.items()
    }
    again = replayed(fused_only, knobs, after="ranking")
    assert predicted(again.states, knobs) == predicted(run_live(knobs), knobs)


@settings(max_examples=25)
@given(
    text_weight=st.floats(0, 1, allow_subnormal=False),
    fusion=st.sampled_from(["rrf", "sum", "interleave", "none"]),
    depth=st.integers(20, 80),
    kinds=st.sampled_from([("hybrid",), ("visual",), ("textual", "hybrid")]),
    baselines=st.booleans(),
)
def test_lists_ranked_again_are_those_of_the_agent_whatever_else_is_ranked(
    text_weight: float, fusion: Any, depth: int, kinds: Any, baselines: bool
) -> None:
    base = replace(
        RECORDED, stages=("coarse",), baselines=baselines, list_kinds=kinds,
        text_weight=text_weight, top_k=20, rank_depth=depth,
    )  # fmt: skip
    knobs = with_fusion(base, fusion)
    recorded = run_live(replace(RECORDED, stages=("coarse",)))
    again = replay(recorded, QUERIES, SPACE, knobs, GALLERY)
    assert bytes_of(again.states) == bytes_of(run_live(knobs))


def test_candidates_that_were_not_asked_about_are_counted_and_keep_their_places() -> None:
    narrow = replace(RECORDED, top_k=10, compare_top=5, rank_depth=70)
    recorded = run_live(narrow)
    knobs = replace(narrow, text_weight=1.0)
    again = replay(recorded, QUERIES, SPACE, knobs, GALLERY)
    assert 0.1 < again.coverage < 1
    named = {reason for state in again.states.values() for _, _, reason in state.item_failures}
    assert NOT_ASKED in named
    live = run_live(knobs)
    for query_id, state in again.states.items():
        assert (state.lists, state.subset_lists) == (
            live[query_id].lists, live[query_id].subset_lists,
        )  # fmt: skip


def test_a_failed_query_stays_failed_and_a_missing_one_missing(
    recorded: dict[str, QueryState],
) -> None:
    some = {query_id: state for query_id, state in recorded.items() if query_id != "q1"}
    again = replayed(some, RECORDED)
    assert again.states["q3"] == recorded["q3"]
    assert again.states["q3"].status == "failed"
    assert "q1" not in again.states


@pytest.mark.parametrize(
    ("changed", "options", "message"),
    [
        ({"num_questions": 6}, {}, "num_questions is 6: the recorded run has 5"),
        ({"top_k": 90, "rank_depth": 90}, {}, "top_k is 90"),
        ({"compare_top": 90}, {}, "compare_top is 90"),
        ({"imagine_image": False}, {}, "propositions would have been others"),
        ({"clip": "another"}, {}, "a replay asks no model"),
        ({"text_weight": 0.5}, {"after": "ranking"}, "text_weight is 0.5: after ranking"),
        ({"list_kinds": ("visual",)}, {"after": "ranking"}, "'v2.visual' was not recorded"),
        ({}, {"after": "lunch"}, "after is 'lunch'"),
    ],
)
def test_what_the_record_cannot_answer_is_refused_by_name(
    recorded: dict[str, QueryState],
    changed: dict[str, Any],
    options: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        replayed(recorded, replace(RECORDED, **changed), **options)


EARLY = replace(RECORDED, stages=("coarse", "verify"), top_k=40, verify_depth=9)


def test_a_record_that_stopped_early_replays_exactly_as_deep_and_less_deep() -> None:
    recorded = run_live(EARLY)
    for depth in (9, 8, 5, 1):
        knobs = replace(EARLY, verify_depth=depth)
        check_replayable(EARLY, knobs)
        again = replay(recorded, QUERIES, SPACE, knobs, GALLERY)
        assert again.coverage == 1
        live = run_live(knobs)
        assert bytes_of(again.states) == bytes_of(live)
        assert predicted(again.states, knobs) == predicted(live, knobs)


@pytest.mark.parametrize("depth", [10, "full"])
def test_a_record_that_stopped_early_cannot_be_replayed_deeper(depth: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"verify_depth is {depth}: the recorded run stop"):
        check_replayable(EARLY, replace(EARLY, verify_depth=depth))
    compares = ("coarse", "verify", "compare")
    recorded = replace(EARLY, stages=compares, compare_top=12)
    check_replayable(recorded, replace(recorded, verify_depth=12))
    with pytest.raises(ConfigurationError, match="verify_depth is 13"):
        check_replayable(recorded, replace(recorded, verify_depth=13))


def test_more_cannot_be_verified_than_was() -> None:
    visual = replace(RECORDED, verify_mode="visual")
    with pytest.raises(ConfigurationError, match="the recorded run has 'visual'"):
        check_replayable(visual, RECORDED)
    with pytest.raises(ConfigurationError, match="no stage 'verify'"):
        check_replayable(replace(RECORDED, stages=("coarse",)), replace(RECORDED))
    with pytest.raises(ConfigurationError, match="imagine_text is true"):
        check_replayable(replace(RECORDED, imagine_text=False), RECORDED)


def test_states_of_the_version_before_are_read_and_can_be_fused_again(
    recorded: dict[str, QueryState],
) -> None:
    import msgpack

    state = recorded["q0"]
    fields = msgpack.unpackb(encode_state(state))
    fields["version"] = 1
    del fields["text_embeddings"]
    old = decode_state(msgpack.packb(fields))
    assert old == replace(state, text_embeddings={})
    with pytest.raises(ConfigurationError, match="without its text embeddings"):
        replayed({"q0": old}, RECORDED)
    assert replayed({"q0": old}, RECORDED, after="ranking").coverage == 1


# --- sweep ----------------------------------------------------------------------------------------

GRID = Grid(
    fusions=("rrf", "sum", "interleave", "none"),
    text_weights=(0.0, 0.15, 0.8, 1.0),
    num_questions=(1, 3, 5),
    top_ks=(4, 10),
    rrf_ks=(10, 60),
)


@pytest.mark.parametrize(
    "changed",
    [{}, {"scoring": "soft", "verify_mode": "visual"}, {"verify_depth": 3}],
    ids=str,
)
def test_a_sweep_gives_exactly_what_replays_give(changed: dict[str, Any]) -> None:
    recorded_knobs = replace(RECORDED, top_k=10, rank_depth=30, compare_top=5, **changed)
    recorded = run_live(recorded_knobs)
    wanted = combinations(recorded_knobs, GRID)
    assert len(wanted) == 4 * (2 + 3) * 2 * 3
    outcomes = list(sweep(recorded, QUERIES, PROTOCOL, SPACE, wanted, GALLERY, image_id))
    assert [outcome.knobs for outcome in outcomes] == wanted
    benchmark = Benchmark(
        name="b", split="s", images=(), searchable=70, queries=tuple(QUERIES), protocol=PROTOCOL
    )
    for outcome in outcomes[::3]:
        knobs = outcome.knobs
        again = replay(recorded, QUERIES, SPACE, knobs, GALLERY)
        rankings = rank_run(again.states, knobs)
        slow = evaluate_run(benchmark, QUERIES, again.states, rankings, knobs, image_id)
        for stage in ("coarse", "verified"):
            assert outcome.metrics[stage] == slow["methods"][stage]
            assert outcome.intervals[stage] == slow["intervals"][stage]
        assert outcome.coverage == again.coverage
    assert {"recall@1", "map@5", "recall_subset@1"} <= set(outcomes[0].metrics["verified"])
    assert len({json.dumps(outcome.metrics) for outcome in outcomes}) > 10, "the grid matters"


def test_a_grid_takes_what_it_does_not_name_from_the_run_and_repeats_nothing() -> None:
    base = replace(RECORDED, stages=("coarse", "verify"))
    assert combinations(RECORDED, Grid()) == [base]
    alone = combinations(RECORDED, Grid(fusions=("sum",), rrf_ks=(10, 60)))
    assert alone == [replace(base, fusion="sum")]
    (none,) = combinations(RECORDED, Grid(fusions=("none",)))
    assert none.retrieve_texts == ("aug",)
