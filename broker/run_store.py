"""A run on disk: runs/{dataset}_{split}/{clip}-{name}_{timestamp}/ and what it holds.

request.json      what was asked for
manifest.json     what the run is: knobs, models, prompts, versions, keys, seed, protocol
states.log        the state of every answered query, written as it is answered (`state_log`)
status.json       queued, running, finished, failed or cancelled, and how far
predictions.jsonl, metrics.json, metrics.txt   written at the end
submissions/      files for evaluation servers, where the data set has one
partial-predictions.jsonl and so on   those of a cancelled run, of the queries it had answered
log.txt           what was logged
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from broker.query_state import QueryState, encode_state
from broker.recorded_states import RecordedStates, decode_record
from broker.state_log import StateLog, read_frames
from shared import atomic_files
from shared.errors import MALFORMED, ConfigurationError, PermanentError

REQUEST, MANIFEST, STATES, STATUS = "request.json", "manifest.json", "states.log", "status.json"
PREDICTIONS, METRICS, METRICS_TABLE, LOG = (
    "predictions.jsonl",
    "metrics.json",
    "metrics.txt",
    "log.txt",
)

SUBMISSIONS = "submissions"
"""The folder of the files for evaluation servers."""
PARTIAL = "partial-"
"""What the names of a cancelled run's results begin with."""

_DISK_TROUBLE = {
    errno.ENOSPC: "there is no room on its disk: make some",
    errno.EDQUOT: "the quota of its disk is used up: make room",
    errno.EFBIG: "a file would become larger than allowed (ulimit -f, or the file system's limit)",
    errno.EROFS: "its disk is read-only: mount it for writing",
    errno.EACCES: "this user may not do that there: give it the right to",
    errno.EPERM: "this user may not do that there: give it the right to",
    errno.EIO: "its disk reports input/output errors: repair or replace it",
    errno.ESTALE: "its network disk is not there any more: mount it again",
}

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}"
_RUN_ID = re.compile(rf"(?P<folder>{_PART})~(?P<run>{_PART})")
_LONGEST_NAME = 60


class RunRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One benchmark run as it was asked for.

    Attributes:
        knobs: the knobs that differ from the defaults.
        limit: only the first so many queries; None = all.
        profile: the profile whose agents should answer, and whose [knobs] are the defaults.
        restore: id of a run whose states this one begins with; empty = none.
        skip_stages: how many of that run's steps are taken over.
        index_only: build the image database and ask no query.
        retry_failed: first ask again for the rows of the image database that failed.
        read_images_again: read image files that are known and unchanged, too.
        owner: the API key it was submitted with; empty = none.
    """

    dataset: str
    split: str
    name: str = ""
    knobs: dict[str, Any] = {}
    limit: int | None = None
    profile: str = ""
    restore: str = ""
    skip_stages: int = 0
    index_only: bool = False
    retry_failed: bool = False
    read_images_again: bool = False
    owner: str = ""


class DiskError(PermanentError):
    """The disk does not take what has to be written. What was written before is whole."""


@contextlib.contextmanager
def clear_about_the_disk(folder: Path, run_id: str) -> Iterator[None]:
    """Turn what the disk refuses into words: which folder, why, and what to do.

    Raises: DiskError: in place of such an OSError; others pass as they are.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_TROUBLE:
            raise
        elsewhere = error.filename and not Path(error.filename).is_relative_to(folder)
        raise DiskError(
            f"{error.filename if elsewhere else folder}: {error.strerror}: "
            f"{_DISK_TROUBLE[error.errno]}, then `xr runs resume {run_id}`; "
            "nothing that was recorded is lost"
        ) from error


def run_folder(runs_folder: Path, run_id: str) -> Path:
    """The folder of a run id. Raises: ConfigurationError: no run id, or no such run."""
    match = _RUN_ID.fullmatch(run_id)
    if match is None:
        raise ConfigurationError(f"{run_id!r} is no run id")
    folder = runs_folder / match["folder"] / match["run"]
    if not (folder / REQUEST).is_file():
        raise ConfigurationError(f"no run {run_id} in {runs_folder}")
    return folder


def list_runs(runs_folder: Path) -> list[str]:
    """The ids of all runs, those submitted last first."""
    found = [
        (_submitted(folder), f"{folder.parent.name}~{folder.name}")
        for folder in (path.parent for path in runs_folder.glob(f"*/*/{REQUEST}"))
        if _RUN_ID.fullmatch(f"{folder.parent.name}~{folder.name}")
    ]
    return [run_id for _, run_id in sorted(found, reverse=True)]


def create_run(runs_folder: Path, request: RunRequest, clip: str) -> str:
    """Make the folder of a new run; returns the run's id, which is safe in URLs.

    Args:
        clip: short name of the CLIP checkpoint, part of the folder's name.
    """
    now = datetime.datetime.now(datetime.UTC)
    folder = f"{_label(request.dataset)}_{_label(request.split)}"
    stamp = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    run = f"{_label(clip)}-{_label(request.name) if request.name else 'run'}_{stamp}"
    status = {"state": "queued", "submitted_at": now.isoformat(timespec="milliseconds")}
    with atomic_files.building_folder(runs_folder / folder / run) as building:
        atomic_files.write_json(building / STATUS, status)
        atomic_files.write_json(building / REQUEST, msgspec.to_builtins(request))
    return f"{folder}~{run}"


def read_request(runs_folder: Path, run_id: str) -> RunRequest:
    """Raises: ConfigurationError: no such run. PermanentError: its request is damaged."""
    path = run_folder(runs_folder, run_id) / REQUEST
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunRequest)
    except MALFORMED as error:
        raise PermanentError(f"{path}: {error}") from error


def read_json(runs_folder: Path, run_id: str, name: str) -> dict[str, Any] | None:
    """One of the run's JSON files, None when it is not there yet."""
    path = run_folder(runs_folder, run_id) / name
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise PermanentError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise PermanentError(f"{path}: no JSON object")
    return content


def change_status(runs_folder: Path, run_id: str, **changes: Any) -> None:
    """Change some entries of status.json; for a run that no live owner works on."""
    former = read_json(runs_folder, run_id, STATUS) or {}
    atomic_files.write_json(run_folder(runs_folder, run_id) / STATUS, {**former, **changes})


def read_states(runs_folder: Path, run_id: str) -> dict[str, QueryState]:
    """The states of any run, also of one under way, by query id; changes nothing on disk."""
    path = run_folder(runs_folder, run_id) / STATES
    if not path.exists():
        return {}
    payloads, _ = read_frames(path.read_bytes(), path)
    states = (decode_record(payload, path, number) for number, payload in enumerate(payloads))
    return {state.query_id: state for state in states}


class RunStore:
    """The owner's hand on a run's folder; only the live owner of a run opens it.

    Attributes:
        states: every query answered so far, by query id; read from the disk when asked for.
    """

    def __init__(self, runs_folder: Path, run_id: str) -> None:
        """Open a run, new or interrupted: a torn last record is cut off.

        Raises: ConfigurationError: no such run. PermanentError: states.log is corrupt.
        """
        self.run_id = run_id
        self.folder = run_folder(runs_folder, run_id)
        self.request = read_request(runs_folder, run_id)
        self._log = StateLog(self.folder / STATES)
        self.states = RecordedStates(self._log, self.folder / STATES)

    def finished_ids(self) -> set[str]:
        """The queries that need not be asked again. Those no agent answered are asked again."""
        return self.states.finished_ids()

    async def record(self, state: QueryState) -> None:
        """Returns once the state is on the disk. Raises: OSError: it could not be written."""
        self.states.add(state, await self._log.append(encode_state(state)))

    def keep_manifest(self, manifest: Mapping[str, Any], binding: Iterable[str]) -> None:
        """Write the manifest, or, in a resumed run, check that it still is the same run.

        Args:
            binding: the entries that must not change between the beginning and the end of a run.
        Raises: PermanentError: one of them did; half the run would be another experiment.
        """
        former = read_json(self.folder.parent.parent, self.run_id, MANIFEST)
        if former is not None and self.states:
            plain = json.loads(json.dumps(manifest))
            changed = [name for name in binding if former.get(name) != plain.get(name)]
            if changed:
                raise PermanentError(
                    f"run {self.run_id} began with other {' and '.join(changed)}: "
                    f"start a new run, or bring back what it began with (see {MANIFEST})"
                )
            return
        atomic_files.write_json(self.folder / MANIFEST, manifest)

    def write_status(self, status: Mapping[str, Any]) -> None:
        atomic_files.write_json(self.folder / STATUS, status)

    def finish(
        self,
        predictions: Iterable[Mapping[str, Any]],
        metrics: Mapping[str, Any],
        table: str,
        partial: bool = False,
        submissions: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Write what the run found; doing it again writes the same bytes.

        Args:
            partial: only some queries are answered: other names, which the whole results replace.
            submissions: files for evaluation servers, by their name in the folder submissions/.
        """
        if submissions:
            (self.folder / SUBMISSIONS).mkdir(exist_ok=True)
        for name, content in (submissions or {}).items():
            atomic_files.write_json(self.folder / SUBMISSIONS / name, content, indent=None)
        prefix = PARTIAL if partial else ""
        atomic_files.write_jsonl(self.folder / (prefix + PREDICTIONS), predictions)
        atomic_files.write_bytes(self.folder / (prefix + METRICS_TABLE), table.encode())
        atomic_files.write_json(self.folder / (prefix + METRICS), metrics)
        if not partial:
            for name in (PREDICTIONS, METRICS_TABLE, METRICS):
                (self.folder / (PARTIAL + name)).unlink(missing_ok=True)

    async def close(self) -> None:
        """Waits for what is being written."""
        await self._log.close()


def _label(text: str) -> str:
    """`text` as part of a folder's name and of a run id."""
    label = re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-.")[:_LONGEST_NAME]
    return label or "unnamed"


def _submitted(folder: Path) -> str:
    try:
        return str(json.loads((folder / STATUS).read_bytes()).get("submitted_at", ""))
    except (OSError, ValueError, AttributeError):
        return ""
