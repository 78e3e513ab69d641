"""Knobs: the paper's defaults, what each list is called, and errors that name the field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.contracts.skills import ListRequest
from shared.errors import ConfigurationError
from shared.knobs import Knobs, from_mapping, resolve, to_mapping


def _names(knobs: Knobs, has_reference: bool = True) -> list[str]:
    return [wanted.name for wanted in knobs.requested_lists(has_reference)]


def test_the_defaults_are_the_papers() -> None:
    knobs = from_mapping({})
    assert (knobs.rrf_k, knobs.text_weight, knobs.num_questions, knobs.top_k) == (60, 0.15, 3, 100)
    assert knobs.stages == ("coarse", "verify")
    assert _names(knobs) == ["v1.hybrid", "v2.hybrid", "aug.hybrid"]
    assert knobs.fused_lists()[0] == ListRequest("v1.hybrid", "hybrid", "v1")
    assert knobs.head_list() == "fused"


def test_knobs_survive_json() -> None:
    knobs = Knobs(
        retrieve_texts=("v1",), list_kinds=("visual", "textual"), exclude_reference=False, seed=7
    )
    assert from_mapping(json.loads(json.dumps(to_mapping(knobs)))) == knobs
    assert from_mapping({"text_weight": 1}).text_weight == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rrfk": 60}, r"no knob 'rrfk': did you mean rrf_k"),
        ({"top-k": 60}, r"no knob 'top-k': did you mean top_k"),
        ({"colour": 60}, "no knob 'colour'; knobs are stages, .*rrf_k"),
        ({"rrf_k": 0}, "rrf_k is 0: .*>= 1"),
        ({"rrf_k": 60.5}, "rrf_k is 60.5"),
        ({"rrf_k": "60"}, "rrf_k is '60'"),
        ({"rrf_k": None}, "rrf_k is None"),
        ({"fusion": "borda"}, "fusion is 'borda': use rrf, sum, interleave, none"),
        ({"text_weight": 1.01}, "text_weight is 1.01: .*<= 1"),
        ({"text_weight": float("nan")}, "text_weight is nan"),
        ({"retrieve_texts": ["v3"]}, r"retrieve_texts is \['v3'\]: use v1, v2, aug, text"),
        ({"retrieve_texts": []}, "retrieve_texts is .*at least one"),
        ({"retrieve_texts": "v1"}, "retrieve_texts is 'v1'"),
        ({"list_kinds": ["hybrid", "hybrid"]}, "list_kinds is .*each once"),
        ({"stages": ["verify"]}, r"stages is \['verify'\]: coarse, then"),
        ({"stages": ["verify", "coarse"]}, "stages is"),
        ({"top_k": 200, "rank_depth": 100}, "rank_depth is 100: it must be at least top_k, 200"),
        ({"head_source": "v1", "retrieve_texts": ["v2"]}, "head_source is 'v1'.*'v2'"),
        ({"fusion": "none"}, "fusion is 'none' but there are 3 lists"),
        ({"record_lists": ["v1.colour"]}, "record_lists has 'v1.colour'"),
        ({"exclude_reference": "no"}, "exclude_reference is 'no': use true, false"),
        ({"visual_weight": 0, "textual_weight": 0}, "visual_weight and textual_weight"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        from_mapping(given)


def test_the_lists_are_the_product_of_texts_and_kinds_then_records_then_baselines() -> None:
    knobs = Knobs(
        retrieve_texts=("v2", "v1"),
        list_kinds=("visual", "hybrid"),
        record_lists=("aug.textual", "v1.hybrid"),
        baselines=True,
    )
    fused = ["v2.visual", "v2.hybrid", "v1.visual", "v1.hybrid"]
    assert [wanted.name for wanted in knobs.fused_lists()] == fused
    assert _names(knobs) == [*fused, "aug.textual", "image_only", "text_only", "image_text_sum"]
    assert _names(knobs, has_reference=False) == [*fused, "aug.textual", "text_only"]
    assert from_mapping(to_mapping(knobs) | {"head_source": "v1"}).head_list() == "v1.visual"


def test_a_left_out_imagination_takes_its_lists_with_it() -> None:
    assert _names(Knobs(imagine_text=False)) == ["v2.hybrid"]
    assert _names(Knobs(imagine_image=False)) == ["v1.hybrid"]
    assert _names(Knobs(imagine_text=False, imagine_image=False)) == ["text.hybrid"]
    assert _names(Knobs(imagine_image=False, record_lists=("v2.visual", "text.visual"))) == [
        "v1.hybrid", "text.visual",
    ]  # fmt: skip
    with pytest.raises(ConfigurationError, match="head_source"):
        Knobs(imagine_text=False, head_source="v1")


def test_a_request_counts_before_the_profile_and_that_before_the_default() -> None:
    profile = {"top_k": 20, "rrf_k": 10, "seed": 3}
    knobs = resolve({"top_k": 50}, profile, seed=7)
    assert (knobs.top_k, knobs.rrf_k, knobs.num_questions, knobs.seed) == (50, 10, 3, 3)
    assert resolve({}, {}, seed=7).seed == 7
    assert resolve({}, {}) == Knobs()


def test_lists_are_as_deep_as_verification_needs() -> None:
    assert from_mapping({"top_k": 500}).rank_depth == 500
    assert from_mapping({"top_k": 10}).rank_depth == 100
