"""The queries of a run, one by one: where each stage has the target, and what led there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Literal

import msgspec

from broker.evaluation import stages_of
from broker.evidence import Evidence, evidence_of
from broker.query_state import QueryState
from broker.run_store import MANIFEST, STATES, read_json, read_request, read_states, run_folder
from broker.stages import Rankings, final_stage, rankings_by_stage
from shared.datasets import Query, load_dataset
from shared.dialogues import dialogue_before
from shared.errors import ConfigurationError, PermanentError
from shared.galleries import Gallery, open_gallery
from shared.image_database import open_image_database
from shared.knobs import Knobs, from_mapping
from shared.settings import Settings

Order = Literal["dataset", "hardest", "gained", "lost"]
"""As the data set has them; worst rank first; most places won, or lost, by the last stage."""
_TABLES_KEPT = 8
_STAGE_DEPTH = 50


class QueryRanks(msgspec.Struct, frozen=True, kw_only=True):
    """One query, and the rank of its best target by stage; None = beyond what the stage ranks."""

    query_id: str
    status: Literal["ok", "failed", "missing"]
    reason: str = ""
    reference_image_id: str | None = None
    modification_text: str = ""
    target_image_ids: tuple[str, ...] = ()
    ranks: dict[str, int | None] = {}
    fallbacks: tuple[str, ...] = ()


class RunQueries(msgspec.Struct, frozen=True, kw_only=True):
    """All queries of a run, in the data set's order, and the stages they have ranks of."""

    gallery: str
    stages: tuple[str, ...]
    final_stage: str
    queries: tuple[QueryRanks, ...]


class TargetRanks(msgspec.Struct, frozen=True):
    image_id: str
    ranks: dict[str, int | None]


class QueryEvidence(Evidence, frozen=True, kw_only=True):
    """One query with everything that was recorded of it."""

    gallery: str
    database: str
    query_id: str
    reference_image_id: str | None
    modification_text: str
    earlier_texts: tuple[str, ...]
    targets: tuple[TargetRanks, ...]
    stages: dict[str, list[str]]


class _Opened(msgspec.Struct, frozen=True):
    knobs: Knobs
    gallery: Gallery
    database: str
    queries: Sequence[Query]


_tables: OrderedDict[tuple[str, int, int], RunQueries] = OrderedDict()
_lock = Lock()


def run_queries(settings: Settings, run_id: str) -> RunQueries:
    """The queries of a run, also of one under way; kept for as long as its states are the same.

    Raises: ConfigurationError: no such run, or it has asked nothing yet. DatasetError: its data set
        or gallery is gone. PermanentError: its files are damaged.
    """
    key = (run_id, *_stamp(run_folder(settings.runs_folder, run_id) / STATES))
    with _lock:
        if (known := _tables.get(key)) is not None:
            _tables.move_to_end(key)
            return known
    made = _table(settings, run_id)
    with _lock:
        _tables[key] = made
        while len(_tables) > _TABLES_KEPT:
            _tables.popitem(last=False)
    return made


def in_order(found: RunQueries, order: Order, stage: str = "") -> list[QueryRanks]:
    """The queries sorted; ties stay in the data set's order.

    Args:
        stage: what `order` looks at; empty = the last one. "gained" and "lost" compare it with
            "coarse". A query without a rank there counts as worse than any.
    Raises: ConfigurationError: the run has no such stage.
    """
    stage = stage or found.final_stage
    if found.stages and stage not in found.stages:
        raise ConfigurationError(f"no stage {stage!r}; there are {', '.join(found.stages)}")
    queries = list(found.queries)
    if order == "dataset":
        return queries
    with_target = [query for query in queries if query.target_image_ids]
    if order == "hardest":
        return sorted(with_target, key=lambda query: -_place(query, stage))
    sign = 1 if order == "gained" else -1
    moved = {
        query.query_id: sign * (_place(query, "coarse") - _place(query, stage))
        for query in with_target
    }
    return sorted(
        (query for query in with_target if moved[query.query_id] > 0),
        key=lambda query: -moved[query.query_id],
    )


def query_evidence(settings: Settings, run_id: str, query_id: str, k: int = 20) -> QueryEvidence:
    """One query of a run, with the best k of its last stage.

    Raises: as `run_queries`; ConfigurationError also: the run has no answer to such a query.
    """
    opened = _open(settings, run_id)
    query = next((one for one in opened.queries if one.query_id == query_id), None)
    states = read_states(settings.runs_folder, run_id)
    state = states.get(query_id)
    if query is None or state is None:
        raise ConfigurationError(f"run {run_id} has no answer to a query {query_id!r}")
    if state.status == "failed":
        raise ConfigurationError(f"query {query_id!r} of run {run_id} failed: {state.reason}")
    database = open_image_database(settings.image_db_folder, opened.database)
    gallery, rankings = opened.gallery, rankings_by_stage(state, opened.knobs)
    reference = query.reference_id
    evidence = evidence_of(
        state,
        opened.knobs,
        k,
        gallery.image_id,
        database.captions.__getitem__,
        reference_caption=""
        if reference is None
        else database.captions[gallery.row_of(reference)] or "",
    )
    by_id = {one.query_id: one for one in opened.queries}
    return QueryEvidence(
        **{name: getattr(evidence, name) for name in evidence.__struct_fields__},
        gallery=gallery.key,
        database=opened.database,
        query_id=query_id,
        reference_image_id=reference,
        modification_text=query.modification_text,
        earlier_texts=dialogue_before(query, by_id, lambda _: "").said,
        targets=tuple(
            TargetRanks(target, _ranks(rankings, [gallery.row_of(target)]))
            for target in query.target_ids
        ),
        stages={
            stage: [gallery.image_id(row) for row in rows[:_STAGE_DEPTH]]
            for stage, rows in rankings.items()
        },
    )


def _table(settings: Settings, run_id: str) -> RunQueries:
    opened = _open(settings, run_id)
    states = read_states(settings.runs_folder, run_id)
    rankings = {
        query_id: rankings_by_stage(state, opened.knobs) for query_id, state in states.items()
    }
    return RunQueries(
        gallery=opened.gallery.key,
        stages=tuple(stages_of(rankings.values())),
        final_stage=final_stage(opened.knobs),
        queries=tuple(
            _query(query, states.get(query.query_id), rankings, opened.gallery)
            for query in opened.queries
        ),
    )


def _query(
    query: Query, state: QueryState | None, rankings: Mapping[str, Rankings], gallery: Gallery
) -> QueryRanks:
    rows = [gallery.row_of(target) for target in query.target_ids]
    answered = state is not None and state.status == "ok"
    return QueryRanks(
        query_id=query.query_id,
        status="missing" if state is None else state.status,
        reason="" if state is None else state.reason,
        reference_image_id=query.reference_id,
        modification_text=query.modification_text,
        target_image_ids=query.target_ids,
        ranks=_ranks(rankings[query.query_id], rows) if answered and rows else {},
        fallbacks=() if state is None or not answered else state.fallbacks,
    )


def _ranks(rankings: Rankings, targets: Sequence[int]) -> dict[str, int | None]:
    """By stage: the 1-based rank of the first of the targets."""
    wanted = set(targets)
    return {
        stage: next((rank for rank, row in enumerate(rows, start=1) if row in wanted), None)
        for stage, rows in rankings.items()
    }


def _place(query: QueryRanks, stage: str) -> int:
    return query.ranks.get(stage) or 1_000_000_000


def _open(settings: Settings, run_id: str) -> _Opened:
    request = read_request(settings.runs_folder, run_id)
    manifest = read_json(settings.runs_folder, run_id, MANIFEST)
    if manifest is None or request.index_only:
        raise ConfigurationError(f"run {run_id} has asked no query yet")
    try:
        knobs = from_mapping(manifest["knobs"])
        gallery, database = manifest["gallery"]["key"], manifest["database"]["key"]
    except (KeyError, TypeError) as error:
        raise PermanentError(f"{MANIFEST} of run {run_id} is damaged: {error!r}") from error
    benchmark = load_dataset(request.dataset, request.split, settings.data_root, settings.home)
    return _Opened(
        knobs,
        open_gallery(settings.galleries_folder, gallery),
        database,
        benchmark.queries[: request.limit],
    )


def _stamp(states: Path) -> tuple[int, int]:
    try:
        found = states.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
