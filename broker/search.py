"""Interactive search: the same per-query function as a benchmark run, at priority hi."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import msgspec
from redis.asyncio import Redis

from broker.agents_client import AgentsClient, AgentsUnreachableError
from broker.agents_roster import (
    Identity,
    agents_needed,
    captioner_identity,
    describe_mixture,
    identities_of,
)
from broker.coordinator import SearchSpace, answer_query
from broker.query_state import QueryState, Verification
from broker.stages import coarse_ranking, final_stage, rankings_by_stage
from shared.bus import keys
from shared.bus.client import BusClient
from shared.datasets import Query
from shared.errors import ConfigurationError, DatasetError, PermanentError, TransientError
from shared.galleries import Gallery, open_gallery
from shared.image_database import (
    ImageDatabase,
    database_key,
    latest_version,
    open_image_database,
)
from shared.knobs import Knobs, resolve
from shared.metadata import matching_rows
from shared.profile_files import profile_knobs
from shared.settings import Settings

logger = logging.getLogger(__name__)

_SPACES_KEPT = 8
_ROSTER_KEPT_S = 2.0


class SearchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked for, and where.

    Attributes:
        gallery, database: key of a gallery (its latest database by the models that are up is
            taken) or of one image database; one of the two is given.
        reference_id: the image that is to be changed; None = the text alone describes the target.
        k: how many images are returned.
        filter: conditions on the images' metadata, see `shared.metadata.matching_rows`; {} = none.
        knobs: those that differ from the profile's.
        timeout_s: how long the caller waits; what is not answered then is left unworked.
    """

    modification_text: str
    gallery: str = ""
    database: str = ""
    reference_id: str | None = None
    k: int = 10
    filter: dict[str, Any] = {}
    knobs: dict[str, Any] = {}
    timeout_s: float = 60.0


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """One image found.

    Attributes:
        rank: 1-based.
        coarse_score: the score of the fused ranking that fed verification.
        image_answers, caption_answers: P(yes) of each proposition; None = it was not, or could not
            be, checked by its image (its caption).
        comparison: P(yes) that it is the reference with the change made; None = not compared.
    """

    rank: int
    image_id: str
    coarse_score: float | None = None
    image_answers: tuple[float, ...] | None = None
    caption_answers: tuple[float, ...] | None = None
    comparison: float | None = None


class SearchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What was found and why.

    Attributes:
        stage: the last stage that ran: coarse, verified or compared.
        hits: best first.
        captions: the imagined target in words: C_t's captions, then C_v's.
        propositions: (question, the answer expected of the target) of each.
        fallbacks: skills whose answer could not be used.
        seconds: from request to answer.
    """

    gallery: str
    database: str
    stage: str
    hits: tuple[Hit, ...]
    captions: tuple[str, ...]
    propositions: tuple[tuple[str, bool], ...]
    fallbacks: tuple[str, ...]
    seconds: float


class SearchTimeoutError(TransientError):
    """The agents did not answer in the time the caller gives."""


class _Opened(msgspec.Struct, frozen=True):
    gallery: Gallery
    database: ImageDatabase


class Searcher:
    """All searches of one process: one reply list, one client of the agents, opened when needed.

    Use as `async with Searcher(redis, settings) as searcher`.
    """

    def __init__(self, redis: Redis, settings: Settings) -> None:
        """`redis` is from `shared.bus.connection.connect`, and stays its owner's."""
        self._settings = settings
        self._job_id = f"search-{uuid.uuid4().hex}"
        self._bus = BusClient(redis, keys.reply(self._job_id), settings.queue_limit)
        self._agents: AgentsClient | None = None
        self._opening = asyncio.Lock()
        self._opened: dict[str, _Opened] = {}
        self._identities: dict[str, Identity] = {}
        self._identities_until_s = 0.0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._hang_up()
        await self._bus.aclose()

    async def search(self, request: SearchRequest) -> SearchAnswer:
        """Raises:
        ConfigurationError: a wrong knob or key. DatasetError: no such gallery, database or image.
        ItemError: an agent refuses the query. SearchTimeoutError: no answer in time.
        TransientError: an agent is missing, or did not answer again and again.
        PermanentError: the agents serve other models than the database was made with.
        """
        began_s = time.monotonic()
        knobs = self._knobs_of(request)
        try:
            async with asyncio.timeout(request.timeout_s):
                identities = await self._live_identities(knobs)
                opened = await asyncio.to_thread(self._open, request, identities)
                space = await asyncio.to_thread(self._space, opened, request.filter)
                agents = await self._client()
                state = await answer_query(
                    _query_of(request),
                    agents.within(request.timeout_s),
                    space,
                    knobs,
                )
        except TimeoutError as error:
            raise SearchTimeoutError(
                f"no answer within {request.timeout_s:g} s: the agents are busy, stuck or gone "
                "(`xr status`); ask again, or give a longer timeout_s"
            ) from error
        except AgentsUnreachableError:
            await self._hang_up()  # the next search begins with a connection of its own
            raise
        return _answer(request, knobs, opened, state, time.monotonic() - began_s)

    def _knobs_of(self, request: SearchRequest) -> Knobs:
        if request.k < 1:
            raise ConfigurationError(f"k is {request.k}: at least 1 image must be returned")
        if not 0 < request.timeout_s <= self._settings.ask_timeout_s * self._settings.ask_attempts:
            raise ConfigurationError(
                f"timeout_s is {request.timeout_s:g}: use more than 0 and at most "
                f"{self._settings.ask_timeout_s * self._settings.ask_attempts:g}"
            )
        knobs = resolve(request.knobs, profile_knobs(self._settings.profile), self._settings.seed)
        if request.k > knobs.rank_depth:
            raise ConfigurationError(
                f"k is {request.k}, but rank_depth {knobs.rank_depth}: raise the knob rank_depth"
            )
        return knobs

    async def _live_identities(self, knobs: Knobs) -> dict[str, Identity]:
        """What each agent serves. A search does not wait for an agent that is not there."""
        needed = agents_needed(knobs)
        if time.monotonic() >= self._identities_until_s:
            roster = await self._bus.live_agents()
            mixture = describe_mixture(roster, needed)
            if mixture:
                raise PermanentError(mixture)
            self._identities = identities_of(roster, {agent.agent for agent in roster})
            self._identities_until_s = time.monotonic() + _ROSTER_KEPT_S
        missing = sorted(set(needed) - self._identities.keys())
        if missing:
            self._identities_until_s = 0.0
            raise TransientError(
                f"{' and '.join(f'no {name} agent' for name in missing)} is up: start one"
            )
        return self._identities

    def _open(self, request: SearchRequest, identities: Mapping[str, Identity]) -> _Opened:
        if bool(request.gallery) == bool(request.database):
            raise ConfigurationError("name either a gallery or a database by its key")
        clip = dict(identities["similarity"])
        key = request.database or self._latest_database(
            request.gallery, captioner_identity(dict(identities["imagination"])), clip
        )
        opened = self._opened.pop(key, None)
        if opened is None:
            database = open_image_database(self._settings.image_db_folder, key)
            gallery = open_gallery(self._settings.galleries_folder, database.gallery_key)
            opened = _Opened(gallery, database)
        if opened.database.manifest.clip != clip:
            raise PermanentError(
                f"database {key} was made with another CLIP than the similarity agents serve "
                "(their scores would mean nothing): index the gallery with these agents, or start "
                "agents with that CLIP"
            )
        self._opened[key] = opened  # the ones used last are kept
        while len(self._opened) > _SPACES_KEPT:
            self._opened.pop(next(iter(self._opened)), None)
        return opened

    def _latest_database(self, gallery: str, captioner: Identity, clip: Identity) -> str:
        open_gallery(self._settings.galleries_folder, gallery)  # its own words when there is none
        folder = self._settings.image_db_folder
        retries = latest_version(folder, gallery, captioner, clip)
        if retries is None:
            raise DatasetError(
                f"gallery {gallery} has no image database made by the models the agents serve: "
                "index it first"
            )
        return database_key(gallery, captioner, clip, retries)

    def _space(self, opened: _Opened, wanted: Mapping[str, Any]) -> SearchSpace:
        eligible = matching_rows(opened.gallery, wanted) if wanted else None
        if eligible is not None and not eligible:
            raise ConfigurationError("no image meets the filter")
        return SearchSpace(
            gallery=opened.gallery.key,
            database=opened.database.key,
            row_of=opened.gallery.row_of,
            caption_of=opened.database.captions.__getitem__,
            exclude_reference=True,  # who asks for a change does not want the same image back
            verify_chunk=self._settings.verify_chunk,
            rows=len(opened.database),
            eligible_rows=eligible,
        )

    async def _client(self) -> AgentsClient:
        async with self._opening:
            if self._agents is None:
                client = AgentsClient(self._bus, self._job_id, 1, self._settings, priority="hi")
                self._agents = await client.__aenter__()
            return self._agents

    async def _hang_up(self) -> None:
        agents, self._agents = self._agents, None
        if agents is not None:
            with contextlib.suppress(Exception):
                await agents.__aexit__(None, None, None)


def _query_of(request: SearchRequest) -> Query:
    return Query(
        query_id=uuid.uuid4().hex,
        reference_id=request.reference_id,
        modification_text=request.modification_text,
        target_ids=(),
    )


def _answer(
    request: SearchRequest, knobs: Knobs, opened: _Opened, state: QueryState, seconds: float
) -> SearchAnswer:
    stage = final_stage(knobs)
    rows = rankings_by_stage(state, knobs).get(stage, ())[: request.k]
    coarse = dict(coarse_ranking(state.lists, knobs))
    by_image, by_caption = _answers(state.image_answers), _answers(state.caption_answers)
    compared = _answers(state.comparisons)
    captions = (
        *(state.text.captions if state.text is not None else ()),
        *((state.image.caption,) if state.image is not None else ()),
    )
    return SearchAnswer(
        gallery=opened.gallery.key,
        database=opened.database.key,
        stage=stage,
        hits=tuple(
            Hit(
                rank=rank,
                image_id=opened.gallery.image_id(row),
                coarse_score=coarse.get(row),
                image_answers=by_image.get(row),
                caption_answers=by_caption.get(row),
                comparison=compared[row][0] if row in compared else None,
            )
            for rank, row in enumerate(rows, start=1)
        ),
        captions=tuple(caption for caption in captions if caption),
        propositions=tuple((one.question, one.expected) for one in state.propositions),
        fallbacks=state.fallbacks,
        seconds=round(seconds, 4),
    )


def _answers(verification: Verification | None) -> dict[int, tuple[float, ...]]:
    """row -> P(yes) per question, of the rows that could be asked about."""
    if verification is None:
        return {}
    rows, p_yes = verification.table()
    failed = {row for row, _ in verification.failures}
    return {
        row: tuple(answers)
        for row, answers in zip(rows.tolist(), p_yes.tolist(), strict=True)
        if row not in failed
    }
