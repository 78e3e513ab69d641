"""The states of a run as a mapping that holds only where each stands in the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from broker.query_state import QueryState, decode_state
from broker.state_log import Place, StateLog
from shared.errors import DecodeError, PermanentError


class RecordedStates(Mapping[str, QueryState]):
    """query id -> state, each read from the disk at every access.

    A coordinator's memory is then bounded by its window, not by the run's queries. Of a query
    recorded twice the later state counts.
    """

    def __init__(self, log: StateLog, path: Path) -> None:
        """Raises: PermanentError: a record is no state."""
        self._log, self._path = log, path
        self._places: dict[str, Place] = {}
        self._unanswered: set[str] = set()
        for number, place in enumerate(log.places):
            self.add(decode_record(log.read(place), path, number), place)
        log.places.clear()

    def add(self, state: QueryState, place: Place) -> None:
        """Count in a state that stands on the disk."""
        self._places[state.query_id] = place
        if state.unanswered:
            self._unanswered.add(state.query_id)
        else:
            self._unanswered.discard(state.query_id)

    def finished_ids(self) -> set[str]:
        """The queries that are answered or have failed for good."""
        return self._places.keys() - self._unanswered

    def __getitem__(self, query_id: str) -> QueryState:
        place = self._places[query_id]
        return decode_record(self._log.read(place), self._path, query_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, query_id: object) -> bool:
        return query_id in self._places


def decode_record(payload: bytes, path: Path, record: int | str) -> QueryState:
    """Raises: PermanentError: the record is no state; the message names file and record."""
    try:
        return decode_state(payload)
    except DecodeError as error:
        raise PermanentError(
            f"{path}, record {record}: {error}; go on with the version of this program that began "
            f"the run (manifest.json and log.txt name it), or start a new run"
        ) from error
