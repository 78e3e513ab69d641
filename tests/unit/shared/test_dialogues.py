"""What a round of a dialogue knows of the rounds before it."""

from __future__ import annotations

import pytest

from shared.datasets import Query
from shared.dialogues import NOTHING_SAID, Dialogue, chains, dialogue_before, joined
from shared.errors import DatasetError


def said(query_id: str, text: str, previous: str = "") -> Query:
    return Query(
        query_id=query_id, reference_id=None, modification_text=text, target_ids=("t",),
        dialogue_id="d", previous_id=previous,
    )  # fmt: skip


ROUNDS = [
    said("0", "a dog on a couch"),
    said("1", "is it brown? yes", "0"),
    said("2", "is it asleep? no", "1"),
    said("3", "how many cushions? two", "2"),
]
BY_ID = {query.query_id: query for query in ROUNDS}


def test_a_round_knows_the_last_description_and_everything_said() -> None:
    known = {"0": "a dog", "1": "a brown dog", "2": "a brown dog, awake"}
    dialogue = dialogue_before(ROUNDS[3], BY_ID, known.__getitem__)
    assert dialogue == Dialogue(
        said=("a dog on a couch", "is it brown? yes", "is it asleep? no"),
        description="a brown dog, awake",
    )
    assert dialogue.new_text("T") == "T"
    assert dialogue.whole_text("T") == "a dog on a couch. is it brown? yes. is it asleep? no. T"


def test_what_failed_rounds_said_comes_after_the_last_known_description() -> None:
    known = {"0": "a dog", "1": "", "2": ""}
    dialogue = dialogue_before(ROUNDS[3], BY_ID, known.__getitem__)
    assert (dialogue.description, dialogue.since) == (
        "a dog", ("is it brown? yes", "is it asleep? no"),
    )  # fmt: skip
    assert dialogue.new_text("T") == "is it brown? yes. is it asleep? no. T"
    nothing = dialogue_before(ROUNDS[3], BY_ID, lambda _: "")
    assert (nothing.description, nothing.since) == ("", nothing.said)


def test_outside_dialogues_a_text_stays_exactly_as_it_is() -> None:
    assert dialogue_before(ROUNDS[0], BY_ID, lambda _: "") == NOTHING_SAID
    for text in (" make it  red ", "", "a\nb"):
        assert NOTHING_SAID.new_text(text) == NOTHING_SAID.whole_text(text) == text
    assert joined("a dog", " ", "it barks!", "no") == "a dog. it barks! no"


def test_the_rounds_of_a_dialogue_are_a_chain_and_others_stand_alone() -> None:
    other = said("x", "a car")
    shuffled = [ROUNDS[2], other, ROUNDS[3], ROUNDS[0], ROUNDS[1]]
    found = [[query.query_id for query in chain] for chain in chains(shuffled)]
    assert found == [["0", "1", "2", "3"], ["x"]]
    # Resumed after round 1: the rest is a chain of its own.
    assert [[q.query_id for q in chain] for chain in chains(ROUNDS[2:])] == [["2", "3"]]
    # Two that follow the same round both come after it.
    fork = said("4", "is it old? no", "0")
    assert [q.query_id for q in chains([fork, *ROUNDS])[0]] == ["0", "4", "1", "2", "3"]


def test_a_dialogue_that_goes_in_a_circle_is_refused() -> None:
    circle = [said("0", "a", "1"), said("1", "b", "0")]
    with pytest.raises(DatasetError, match="goes in a circle"):
        chains(circle)
    with pytest.raises(DatasetError, match="goes in a circle"):
        dialogue_before(circle[0], {q.query_id: q for q in circle}, lambda _: "")
