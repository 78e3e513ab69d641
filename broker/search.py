"""Interactive search: the same per-query function as a benchmark run, at priority hi."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
import uuid
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import msgspec
from redis.asyncio import Redis

from broker.agents_client import AgentsClient, AgentsUnreachableError, Ask
from broker.agents_roster import (
    Identity,
    agents_needed,
    describe_mixture,
    identities_of,
)
from broker.coordinator import SearchSpace, answer_query, weights_of
from broker.evidence import Evidence, evidence_of
from broker.query_state import QueryState
from broker.search_options import OutsideReference, SearchOptions
from broker.searched_databases import OpenedDatabase, SearchedDatabases
from broker.stages import COARSE, best_to_settle, compares
from shared.bus import keys
from shared.bus.client import BusClient
from shared.contracts.skills import Request, Result
from shared.datasets import Query
from shared.dialogues import Dialogue
from shared.errors import ConfigurationError, PermanentError, TransientError
from shared.image_files import read_content
from shared.knobs import Knobs, resolve
from shared.metadata import matching_rows
from shared.profile_files import profile_knobs
from shared.reference_images import Crop, cropped, find_reference, read_reference
from shared.settings import Settings

logger = logging.getLogger(__name__)

_ROSTER_KEPT_S = 2.0
_LARGEST_CHUNK = 100
"""Candidates in a search's message, so that another search need not wait for thousands of them."""


class SearchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked for, and where.

    Attributes:
        gallery, database: key of a gallery (its latest database by the models that are up is
            taken) or of one image database; one of the two is given.
        reference_id: the image of the gallery that is to be changed.
        reference_upload: or an image that was uploaded (`shared.reference_images`). Without either
            the text alone describes the target.
        crop: the part of the reference that is meant.
        negative_text: what the target shows less of.
        weights: see `SearchOptions`.
        feedback_id: an image that an earlier round found and that is (like) the target.
        earlier_texts, description: what was said before in a dialogue, and the description that the
            last answer gave.
        k: how many images are returned.
        filter: conditions on the images' metadata, see `shared.metadata.matching_rows`; {} = none.
        knobs: those that differ from the profile's.
        timeout_s: how long the caller waits; what is not answered then is left unworked.
    """

    modification_text: str
    gallery: str = ""
    database: str = ""
    reference_id: str | None = None
    reference_upload: str | None = None
    crop: Crop | None = None
    negative_text: str = ""
    weights: dict[str, float] = {}
    feedback_id: str | None = None
    earlier_texts: tuple[str, ...] = ()
    description: str = ""
    k: int = 10
    filter: dict[str, Any] = {}
    knobs: dict[str, Any] = {}
    timeout_s: float = 60.0


class SearchAnswer(Evidence, frozen=True, kw_only=True):
    """What was found and why.

    Attributes:
        complete: false = coarse, as candidates are still being checked.
        timings: step -> seconds from its first request to its last answer.
        seconds: from request to answer.
    """

    gallery: str
    database: str
    complete: bool = True
    timings: dict[str, float] = msgspec.field(default_factory=dict)
    seconds: float


Tell = Callable[[SearchAnswer], None]


class SearchTimeoutError(TransientError):
    """The agents did not answer in the time the caller gives."""


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
        self._databases = SearchedDatabases(settings)
        self._identities: dict[str, Identity] = {}
        self._identities_until_s = 0.0
        self._question_workers = 0

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

    async def search(self, request: SearchRequest, tell: Tell | None = None) -> SearchAnswer:
        """Search; `tell` gets the coarse ranking as soon as there is one.

        Raises:
            ConfigurationError: a wrong knob, key or option. DatasetError: no such gallery,
                database, image or upload. ItemError: an agent refuses the query, or the reference
                is no image. SearchTimeoutError: no answer in time. TransientError: an agent is
                missing, or did not answer again and again. PermanentError: the agents serve other
                models than the database was made with.
        """
        began_s = time.monotonic()
        knobs = self._knobs_of(request)
        try:
            async with asyncio.timeout(request.timeout_s):
                identities = await self._live_identities(knobs)
                opened, space, options = await asyncio.to_thread(
                    self._prepare, request, knobs, identities
                )
                query = _query_of(request)
                weights = weights_of(query, knobs, options)
                agents = await self._client()
                timed = _TimedAsk(agents.within(request.timeout_s))

                def answer(state: QueryState, complete: bool) -> SearchAnswer:
                    evidence = evidence_of(
                        state,
                        knobs,
                        request.k,
                        opened.gallery.image_id,
                        opened.database.captions.__getitem__,
                        weights=weights,
                        stage="" if complete else COARSE,
                        reference_caption=_reference_caption(request, opened),
                    )
                    return SearchAnswer(
                        **{name: getattr(evidence, name) for name in evidence.__struct_fields__},
                        gallery=opened.gallery.key,
                        database=opened.database.key,
                        complete=complete,
                        timings=timed.timings(),
                        seconds=round(time.monotonic() - began_s, 4),
                    )

                state = await answer_query(
                    query,
                    timed,
                    space,
                    knobs,
                    _dialogue_of(request, opened),
                    options,
                    (lambda ranked: tell(answer(ranked, False))) if tell else lambda _: None,
                )
        except TimeoutError as error:
            raise SearchTimeoutError(
                f"no answer within {request.timeout_s:g} s: the agents are busy, stuck or gone "
                "(`xr status`); ask again, or give a longer timeout_s"
            ) from error
        except AgentsUnreachableError:
            await self._hang_up()  # the next search begins with a connection of its own
            raise
        return answer(state, True)

    def _prepare(
        self, request: SearchRequest, knobs: Knobs, identities: Mapping[str, Identity]
    ) -> tuple[OpenedDatabase, SearchSpace, SearchOptions]:
        """All that reads files, in one go."""
        opened = self._databases.open(request.gallery, request.database, identities)
        space = self._space(opened, request.filter, knobs)
        return opened, space, self._options(request, knobs, opened)

    def _options(
        self, request: SearchRequest, knobs: Knobs, opened: OpenedDatabase
    ) -> SearchOptions:
        """What the search wishes beyond the query; an upload or a crop becomes a reference."""
        outside = self._outside_reference(request, opened)
        if outside is not None and compares(knobs):
            raise ConfigurationError(
                "the stage compare needs a whole image of the gallery as its reference: leave it "
                "out of the knob stages, or search without crop and upload"
            )
        feedback = request.feedback_id
        return SearchOptions(
            weights=request.weights,
            negative_text=request.negative_text.strip(),
            outside=outside,
            feedback_row=None if feedback is None else opened.gallery.row_of(feedback),
        )

    def _outside_reference(
        self, request: SearchRequest, opened: OpenedDatabase
    ) -> OutsideReference | None:
        reference_id, upload = request.reference_id, request.reference_upload
        if reference_id is not None and upload is not None:
            raise ConfigurationError("give a reference image by its id or by an upload, not both")
        if upload is not None:
            kept = find_reference(self._settings, upload)
            if request.crop is not None:
                content = read_reference(self._settings, upload)
                kept = cropped(self._settings, content, request.crop)
            return OutsideReference(kept.gallery)
        if request.crop is None:
            return None
        if reference_id is None:
            raise ConfigurationError("there is a crop, but no reference image to cut it from")
        file = opened.gallery.image_file(opened.gallery.row_of(reference_id))
        return OutsideReference(
            cropped(self._settings, read_content(file.path), request.crop).gallery
        )

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
            self._question_workers = sum(agent.agent == "question" for agent in roster)
            self._identities = identities_of(roster, {agent.agent for agent in roster})
            self._identities_until_s = time.monotonic() + _ROSTER_KEPT_S
        missing = sorted(set(needed) - self._identities.keys())
        if missing:
            self._identities_until_s = 0.0
            raise TransientError(
                f"{' and '.join(f'no {name} agent' for name in missing)} is up: start one"
            )
        return self._identities

    def _space(
        self, opened: OpenedDatabase, wanted: Mapping[str, Any], knobs: Knobs
    ) -> SearchSpace:
        eligible = matching_rows(opened.gallery, wanted) if wanted else None
        if eligible is not None and not eligible:
            raise ConfigurationError("no image meets the filter")
        return SearchSpace(
            gallery=opened.gallery.key,
            database=opened.database.key,
            row_of=opened.gallery.row_of,
            caption_of=opened.database.captions.__getitem__,
            exclude_reference=True,  # who asks for a change does not want the same image back
            verify_chunk=self._verify_chunk(knobs),
            rows=len(opened.database),
            eligible_rows=eligible,
        )

    def _verify_chunk(self, knobs: Knobs) -> int:
        """Each question worker gets one message, where all candidates are asked about: interactive
        messages are worked on one by one, and in a search nothing is done with a part of them."""
        smallest = self._settings.verify_chunk
        if best_to_settle(knobs) is not None:
            return smallest
        share = math.ceil(knobs.top_k / max(1, self._question_workers))
        return max(smallest, min(share, _LARGEST_CHUNK))

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


class _TimedAsk:
    """Asks, and remembers when each step began and ended."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._first: dict[str, float] = {}
        self._last: dict[str, float] = {}

    async def __call__(self, query_id: str, step: str, part: str, body: Request) -> Result:
        self._first.setdefault(step, time.monotonic())
        try:
            return await self._ask(query_id, step, part, body)
        finally:
            self._last[step] = time.monotonic()

    def timings(self) -> dict[str, float]:
        return {step: round(ended - self._first[step], 4) for step, ended in self._last.items()}


def _query_of(request: SearchRequest) -> Query:
    return Query(
        query_id=uuid.uuid4().hex,
        reference_id=request.reference_id,
        modification_text=request.modification_text,
        target_ids=(),
    )


def _dialogue_of(request: SearchRequest, opened: OpenedDatabase) -> Dialogue:
    """What came before. The image marked as the target describes it better than words did."""
    description = request.description
    if request.feedback_id is not None:
        marked = opened.database.captions[opened.gallery.row_of(request.feedback_id)]
        description = marked or description
    since = () if description else request.earlier_texts
    return Dialogue(request.earlier_texts, description, since)


def _reference_caption(request: SearchRequest, opened: OpenedDatabase) -> str:
    """Of a reference of the gallery; one that is none is described by what is imagined."""
    if request.reference_id is None or request.crop is not None:
        return ""
    return opened.database.captions[opened.gallery.row_of(request.reference_id)] or ""
