"""A finished run as others use it: to replay, to sweep over, to restore from, to compare with."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from broker.coordinator import SearchSpace
from broker.query_state import QueryState
from broker.recorded_states import decode_record
from broker.run_results import RunQuestions
from broker.run_store import (
    MANIFEST,
    PROMPTS,
    STATES,
    STATUS,
    RunRequest,
    read_json,
    read_request,
    run_folder,
)
from broker.state_log import Place, find_frames
from shared.datasets import load_dataset
from shared.errors import ConfigurationError, PermanentError
from shared.galleries import Gallery, open_gallery
from shared.image_database import ImageDatabase, open_image_database
from shared.knobs import Knobs, from_mapping
from shared.settings import Settings


class FinishedStates(Mapping[str, QueryState]):
    """query id -> state, each read from the file when asked for; nothing is changed on disk."""

    def __init__(self, path: Path) -> None:
        """Raises: PermanentError: the file is corrupt, or a record is no state."""
        self._path = path
        with path.open("rb") as file:
            size = path.stat().st_size
            self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        self._places: dict[str, Place] = {}
        places, _ = find_frames(self._content, path)  # type: ignore[arg-type]  # read like bytes
        for number, place in enumerate(places):
            self._places[self._state(place, number).query_id] = place

    def _state(self, place: Place, record: int | str) -> QueryState:
        payload = bytes(self._content[place.offset : place.offset + place.length])
        return decode_record(payload, self._path, record)

    def __getitem__(self, query_id: str) -> QueryState:
        return self._state(self._places[query_id], query_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, query_id: object) -> bool:
        return query_id in self._places


@dataclass(frozen=True)
class RecordedRun:
    """A finished run on disk.

    Attributes:
        manifest: what its manifest.json holds.
        knobs: every parameter it ran with.
    """

    run_id: str
    folder: Path
    request: RunRequest
    manifest: Mapping[str, Any]
    knobs: Knobs

    def prompts(self) -> dict[str, bytes]:
        """Skill -> the prompt file it was answered with; empty in runs of older versions."""
        files = sorted((self.folder / PROMPTS).glob("*.toml"))
        return {path.stem: path.read_bytes() for path in files}

    @cached_property
    def states(self) -> FinishedStates:
        return FinishedStates(self.folder / STATES)


@dataclass(frozen=True)
class Surroundings:
    """What a recorded run was asked, and what it was searched in."""

    asked: RunQuestions
    database: ImageDatabase
    space: SearchSpace

    @property
    def gallery(self) -> Gallery:
        return self.asked.gallery


def open_recorded_run(runs_folder: Path, run: str) -> RecordedRun:
    """Open a finished run.

    Args:
        run: its id, or the path of its folder.
    Raises: ConfigurationError: no such run, or it is not finished. PermanentError: its files are
        damaged.
    """
    run_id = run_id_of(runs_folder, run)
    status = read_json(runs_folder, run_id, STATUS) or {}
    manifest = read_json(runs_folder, run_id, MANIFEST)
    if status.get("state") != "finished" or manifest is None:
        raise ConfigurationError(
            f"run {run_id} is {status.get('state', 'unknown')}: only a finished run has all of its"
            " states (`xr runs resume` brings it to its end)"
        )
    try:
        knobs = from_mapping(manifest["knobs"])
    except (KeyError, TypeError) as error:
        raise PermanentError(f"{MANIFEST} of run {run_id} is damaged: {error!r}") from error
    folder = run_folder(runs_folder, run_id)
    return RecordedRun(run_id, folder, read_request(runs_folder, run_id), manifest, knobs)


def run_id_of(runs_folder: Path, run: str) -> str:
    """The id of a run named by its id or by the path of its folder.

    Raises: ConfigurationError: there is no such run.
    """
    path = Path(run)
    if path.is_dir() and path.resolve().parent.parent == runs_folder.resolve():
        run = f"{path.resolve().parent.name}~{path.resolve().name}"
    run_folder(runs_folder, run)
    return run


def open_surroundings(settings: Settings, run: RecordedRun) -> Surroundings:
    """The data set, gallery and image database of a run, as they were.

    Raises: DatasetError: one of them is not there. ConfigurationError: the data set's queries are
        not those of the run.
    """
    request = run.request
    benchmark = load_dataset(request.dataset, request.split, settings.data_root, settings.home)
    queries = benchmark.queries[: request.limit]
    known = {query.query_id for query in queries}
    strange = next((query_id for query_id in run.states if query_id not in known), None)
    if strange is not None or len(queries) != run.manifest["queries"]:
        raise ConfigurationError(
            f"run {run.run_id} asked {run.manifest['queries']} queries, but {benchmark.name}"
            f" {benchmark.split} in {settings.data_root} has {len(queries)}"
            + (f" and none called {strange!r}" if strange is not None else "")
        )
    gallery = open_gallery(settings.galleries_folder, run.manifest["gallery"]["key"])
    database = open_image_database(settings.image_db_folder, run.manifest["database"]["key"])
    space = SearchSpace(
        gallery=gallery.key,
        database=database.key,
        row_of=gallery.row_of,
        caption_of=database.captions.__getitem__,
        exclude_reference=benchmark.protocol.exclude_reference,
        verify_chunk=settings.verify_chunk,
        rows=len(database),
    )
    return Surroundings(RunQuestions(benchmark, queries, gallery, run.knobs), database, space)
