"""Ids are found by hash, and believed only when their strings are the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.id_index import IdIndex


def index_of(ids: Sequence[str]) -> IdIndex:
    return IdIndex(ids, len(ids), ids.__getitem__)


@given(st.lists(st.text(max_size=3), max_size=30))
def test_an_index_agrees_with_a_dictionary(ids: list[str]) -> None:
    index = index_of(ids)
    rows = {image_id: row for row, image_id in reversed(list(enumerate(ids)))}
    assert all(index.find(image_id) == row for image_id, row in rows.items())
    assert index.find("not among them") is None
    repeated = [row for row, image_id in enumerate(ids) if rows[image_id] != row]
    assert index.first_duplicate() == (repeated[0] if repeated else None)


def test_ids_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.id_index.hash", lambda text: 7, raising=False)
    index = index_of(["a", "b", "c"])
    assert [index.find(name) for name in "abcd"] == [0, 1, 2, None]
    assert index.first_duplicate() is None
    assert index_of(["a", "b", "b", "a"]).first_duplicate() == 2


def test_a_look_up_asks_for_one_string_whatever_the_size() -> None:
    ids = [f"{number:08d}" for number in range(20_000)]
    asked: list[int] = []

    def id_at(row: int) -> str:
        asked.append(row)
        return ids[row]

    index = IdIndex(ids, len(ids), id_at)
    draw = np.random.default_rng(1).integers(0, len(ids), 500).tolist()
    assert [index.find(ids[row]) for row in draw] == draw
    assert len(asked) == 500
