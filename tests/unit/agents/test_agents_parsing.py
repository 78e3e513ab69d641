"""What models write becomes records, or is said to be unusable; nothing raises."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.imagination.parsing import image_imagination, text_imagination
from agents.json_answers import json_object
from agents.question.parsing import propositions, yes_or_no
from shared.contracts.skills import Edit, Proposition
from shared.errors import ItemError

IMAGINED = {
    "edits": [{"kind": "modify", "subject": "red dress", "change": "blue dress"}],
    "core": "a blue dress",
    "enhanced": "a long blue dress",
    "comprehensive": "a long blue dress with white dots",
}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ""),
        ("Here is the answer:\n", "\nI hope it helps."),
        ("```json\n", "\n```"),
        ("The set {a, b} is no answer. ", " Neither is {this}."),
    ],
)
def test_json_is_found_in_the_text_around_it(before: str, after: str) -> None:
    assert json_object(before + json.dumps(IMAGINED) + after) == IMAGINED


def test_trailing_commas_are_forgiven_and_commas_in_strings_are_kept() -> None:
    assert json_object('{"a": ["x, ]", "y",], "b": "1,}",}') == {"a": ["x, ]", "y"], "b": "1,}"}


def test_control_characters_in_strings_are_read_because_grammars_allow_them() -> None:
    assert json_object('{"core": "a\tred\x11 dress"}') == {"core": "a\tred\x11 dress"}


def test_an_answer_cut_short_is_unusable() -> None:
    with pytest.raises(ItemError, match="no JSON object"):
        json_object('{"core": "a blue dress", "enhanced": "a long blu')


def test_a_text_imagination_keeps_edits_and_captions_in_order() -> None:
    imagined = text_imagination(json.dumps(IMAGINED), "make it blue")
    assert imagined.parsed
    assert imagined.edits == (Edit("modify", "red dress", "blue dress"),)
    assert imagined.captions == (
        "a blue dress",
        "a long blue dress",
        "a long blue dress with white dots",
    )


def test_repeated_captions_count_once() -> None:
    answer = json.dumps(IMAGINED | {"enhanced": "a  blue dress "})
    assert text_imagination(answer, "").captions == (
        "a blue dress",
        "a long blue dress with white dots",
    )


def test_malformed_edits_are_left_out_and_the_rest_is_kept() -> None:
    edits = [{"kind": "explode", "subject": "a", "change": "b"}, "add", {"kind": "add"}]
    edits += [{"kind": " Add ", "subject": "a hat", "change": "new"}]
    assert text_imagination(json.dumps(IMAGINED | {"edits": edits}), "").edits == (
        Edit("add", "a hat", "new"),
    )


@pytest.mark.parametrize("answer", ["", "I can't.", '{"core": ""}', '{"core": 3}', "[1, 2]"])
def test_an_unusable_imagination_falls_back_to_the_modification_text_and_says_so(
    answer: str,
) -> None:
    text = text_imagination(answer, "make it blue")
    assert (text.parsed, text.captions, text.edits) == (False, ("make it blue",), ())
    image = image_imagination(answer, "make it blue")
    assert (image.parsed, image.caption) == (False, "make it blue")


def test_an_image_imagination_keeps_its_phrases() -> None:
    answer = '{"existent": ["a dog", "a dog", " two  cats"], "nonexistent": [], "caption": "pets"}'
    imagined = image_imagination(answer, "")
    assert imagined.existent == ("a dog", "two cats")
    assert (imagined.nonexistent, imagined.caption, imagined.parsed) == ((), "pets", True)


def test_propositions_are_cut_to_the_limit_after_repetitions_are_dropped() -> None:
    listed = [
        {"question": "Is it red?", "expected": "no"},
        {"question": "Is it red?", "expected": "yes"},
        {"question": "Is it blue?", "expected": "maybe"},
        {"question": "Is it long?", "expected": True},
        {"question": "Is it short?", "expected": "False"},
    ]
    proposed = propositions(json.dumps({"propositions": listed}), limit=2)
    assert proposed.parsed
    assert proposed.propositions == (
        Proposition("Is it red?", False),
        Proposition("Is it long?", True),
    )


def test_no_usable_proposition_is_said() -> None:
    assert not propositions('{"propositions": []}', 3).parsed


@pytest.mark.parametrize(
    ("answer", "meant"),
    [
        ("Yes.", True),
        ("no", False),
        ("**No**, it is not", False),
        ("False", False),
        (True, True),
        ("nothing known", None),
        ("yes and no", None),
        ("", None),
        (None, None),
        (1, None),
    ],
)
def test_answers_are_read_as_whole_words(answer: object, meant: bool | None) -> None:
    assert yes_or_no(answer) is meant


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet='{}[]",:abc \\\n0', max_size=60) | st.text(max_size=60))
def test_no_text_makes_a_parser_raise(text: str) -> None:
    assert text_imagination(text, "T").captions
    assert image_imagination(text, "T").caption
    assert len(propositions(text, 2).propositions) <= 2


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from([*IMAGINED, "existent", "propositions"]), ANYTHING))
def test_no_json_makes_a_parser_raise(fields: dict[str, object]) -> None:
    answer = json.dumps(fields)
    assert all(
        caption == " ".join(caption.split()) for caption in text_imagination(answer, "T").captions
    )
    image_imagination(answer, "T")
    propositions(answer, 3)
