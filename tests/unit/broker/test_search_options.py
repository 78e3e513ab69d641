"""What weights, a negative text and a marked target make of the lists that are fused."""

from __future__ import annotations

from typing import Any

import pytest

from broker.search_options import NO_OPTIONS, SearchOptions, edits_with, list_weights
from shared.contracts.skills import Edit
from shared.errors import ConfigurationError
from shared.knobs import Knobs


def weights(
    options: SearchOptions, has_reference: bool = True, **knobs: Any
) -> dict[str, float] | None:
    found = list_weights(Knobs(**knobs), options, has_reference)
    return None if found is None else {one.name: weight for one, weight in found.items()}


def test_without_wishes_the_knobs_alone_say_what_is_fused() -> None:
    assert weights(NO_OPTIONS) is None
    assert weights(NO_OPTIONS, fusion="interleave") is None


def test_weights_change_what_is_named_and_leave_the_rest() -> None:
    assert weights(SearchOptions(weights={"v2": 2.5})) == {
        "v1.hybrid": 1.0, "v2.hybrid": 2.5, "aug.hybrid": 1.0,
    }  # fmt: skip


def test_a_weight_of_zero_takes_the_list_out() -> None:
    found = weights(SearchOptions(weights={"v1": 0, "aug": 0, "text": 0.5}))
    assert found == {"v2.hybrid": 1.0, "text.hybrid": 0.5}


def test_the_negative_text_pushes_down_in_every_kind_of_list() -> None:
    found = weights(
        SearchOptions(negative_text="dogs", weights={"negative": 2}),
        list_kinds=("visual", "textual"), retrieve_texts=("v1",),
    )  # fmt: skip
    assert found == {
        "v1.visual": 1.0, "v1.textual": 1.0, "negative.visual": -2.0, "negative.textual": -2.0,
    }  # fmt: skip


def test_a_marked_target_and_the_reference_are_compared_by_their_pictures() -> None:
    found = list_weights(Knobs(), SearchOptions(feedback_row=7, weights={"reference": 0.25}), True)
    assert found is not None
    by_name = {one.name: (one.kind, weight) for one, weight in found.items()}
    assert by_name["feedback"] == ("image_only", 1.0)
    assert by_name["reference"] == ("image_only", 0.25)


def test_the_marked_target_counts_only_where_one_is_marked() -> None:
    with pytest.raises(ConfigurationError, match="weights has 'feedback', which this search"):
        weights(SearchOptions(weights={"feedback": 1}))
    assert weights(SearchOptions(weights={"feedback": 0}))  # nothing is asked of it


@pytest.mark.parametrize(
    ("options", "knobs", "message"),
    [
        ({"weights": {"reference": 1}}, {}, "weights has 'reference'"),
        ({"weights": {"colour": 1}}, {}, "it has v1, v2, aug, text"),
        ({"weights": {"v1": -1}}, {}, "the weight of v1 is -1: use 0 to 10"),
        ({"weights": {"v1": 10.5}}, {}, "the weight of v1 is 10.5"),
        ({"weights": {"v1": float("nan")}}, {}, "the weight of v1 is nan"),
        ({"weights": {"v1": 0, "v2": 0, "aug": 0}}, {}, "nothing is left to search by"),
        ({"negative_text": "dogs", "weights": {"v1": 0, "v2": 0, "aug": 0}}, {}, "nothing is left"),
        ({"negative_text": "dogs"}, {"fusion": "interleave"}, "need the knobs fusion rrf or sum"),
        ({"feedback_row": 0}, {"head_source": "v1"}, "they are rrf and v1"),
    ],
    ids=str,
)
def test_what_cannot_be_weighed_is_refused_by_name(
    options: dict[str, Any], knobs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        weights(SearchOptions(**options), has_reference=False, **knobs)


def test_the_questions_know_what_there_should_be_less_of() -> None:
    edits = (Edit("add", "a hat", "new"),)
    assert edits_with(edits, "") == edits
    assert edits_with(edits, "dogs") == (*edits, Edit("remove", "dogs", "gone"))
