"""What is known of a dialogue when one of its rounds begins, so that no earlier round is lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from shared.datasets import Query
from shared.errors import DatasetError


class Dialogue(NamedTuple):
    """What came before a round; all of it empty in round 0 and outside dialogues.

    Attributes:
        said: the texts of all earlier rounds, in order.
        description: the target as the last earlier round imagined it, of those that have been
            answered.
        since: the texts of the rounds after that one, which have no description: they failed.
    """

    said: tuple[str, ...] = ()
    description: str = ""
    since: tuple[str, ...] = ()

    def new_text(self, modification_text: str) -> str:
        """What the description does not know yet: this round's text, after that of failed ones."""
        return joined(*self.since, modification_text)

    def whole_text(self, modification_text: str) -> str:
        """Everything said so far, this round included."""
        return joined(*self.said, modification_text)


NOTHING_SAID = Dialogue()


def joined(*texts: str) -> str:
    """Several texts as one, each a sentence of its own; one text alone stays exactly as it is."""
    if len(texts) == 1:
        return texts[0]
    stripped = [text.strip() for text in texts]
    return " ".join(
        text if text[-1] in ".!?" or place == len(stripped) - 1 else f"{text}."
        for place, text in enumerate(stripped)
        if text
    )


def dialogue_before(
    query: Query, queries: Mapping[str, Query], description_of: Callable[[str], str]
) -> Dialogue:
    """What was said, and imagined, before a query.

    Args:
        queries: the queries of the run by id; a round before that is not among them begins the
            dialogue.
        description_of: query id -> its description, empty where there is none.
    Raises: DatasetError: the rounds go in a circle.
    """
    said: list[str] = []
    since: list[str] = []
    description = ""
    for earlier in _earlier(query, queries):
        said.append(earlier.modification_text)
        description = description or description_of(earlier.query_id)
        if not description:
            since.append(earlier.modification_text)
    return Dialogue(tuple(reversed(said)), description, tuple(reversed(since)))


def chains(queries: Sequence[Query]) -> list[list[Query]]:
    """The queries of each dialogue, in the order of their rounds; others are chains of one.

    Chains come in the order of their first queries. A round whose predecessor is not among the
    queries begins a chain.

    Raises: DatasetError: the rounds go in a circle.
    """
    by_id = {query.query_id: query for query in queries}
    found: dict[str, list[tuple[int, Query]]] = {}
    for query in queries:
        earlier = _earlier(query, by_id)
        first = earlier[-1] if earlier else query
        found.setdefault(first.query_id, []).append((len(earlier), query))
    return [
        [query for _, query in sorted(chain, key=lambda entry: entry[0])]
        for chain in found.values()
    ]


def _earlier(query: Query, queries: Mapping[str, Query]) -> list[Query]:
    """The rounds before, the last one first."""
    rounds: list[Query] = []
    previous = queries.get(query.previous_id)
    while previous is not None:
        rounds.append(previous)
        if len(rounds) > len(queries):
            raise DatasetError(f"query {query.query_id!r}: its dialogue goes in a circle")
        previous = queries.get(previous.previous_id)
    return rounds
