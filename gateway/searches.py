"""Searches as `broker.search` runs them, in the words of the HTTP API."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

import msgspec
from redis.asyncio import Redis

from broker.search import SearchAnswer, Searcher, SearchTimeoutError
from broker.search import SearchRequest as BrokerRequest
from gateway.errors import ApiError
from gateway.records import SearchLoad, SearchRequest, SearchView
from shared.errors import ConfigurationError, DatasetError, ItemError, PermanentError
from shared.settings import Settings

_RETRY_AFTER_S = 1


class BrokerSearches:
    """`gateway.ports.Searches`: one `Searcher`, and with it one reply list, per process.

    More searches at once than `Settings.search_limit` are refused at once: whoever waits in a line
    that grows is told nothing.
    """

    def __init__(self, redis: Redis, settings: Settings) -> None:
        """`redis` waits while Redis is away (`shared.bus.connection.connect`); closed with this."""
        self._redis = redis
        self._searcher = Searcher(redis, settings)
        self._limit = settings.search_limit
        self._running = 0
        self._answered = 0
        self._refused = 0
        self._failed = 0

    async def search(
        self, request: SearchRequest, tell: Callable[[SearchView], None] | None = None
    ) -> SearchView:
        with self._a_place():
            try:
                answer = await self._searcher.search(
                    broker_request(request), None if tell is None else lambda a: tell(_shown(a))
                )
            except ConfigurationError as error:
                raise ApiError(422, "invalid-search", str(error)) from error
            except DatasetError as error:
                raise ApiError(404, "not-searchable", str(error)) from error
            except ItemError as error:
                raise ApiError(422, "query-refused", str(error)) from error
            except SearchTimeoutError as error:
                raise ApiError(504, "search-timeout", str(error)) from error
            except PermanentError as error:
                raise ApiError(409, "other-models", str(error)) from error
            return _shown(answer)

    async def stream(self, request: SearchRequest) -> AsyncIterator[SearchView]:
        """The coarse answer as soon as it is there, then the last one; raises as `search` does."""
        found: asyncio.Queue[SearchView] = asyncio.Queue()
        searching = asyncio.create_task(self.search(request, found.put_nowait))
        first = asyncio.create_task(found.get())
        try:
            await asyncio.wait({searching, first}, return_when=asyncio.FIRST_COMPLETED)
            if first.done():
                yield first.result()
            yield await searching
        finally:
            for task in (searching, first):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task

    def load(self) -> SearchLoad:
        return SearchLoad(
            running=self._running,
            limit=self._limit,
            answered=self._answered,
            refused=self._refused,
            failed=self._failed,
        )

    def check_place(self) -> None:
        if self._running >= self._limit:
            self._refused += 1
            raise ApiError(
                429,
                "too-many-searches",
                f"{self._running} searches are under way; ask again in a moment",
                retry_after_s=_RETRY_AFTER_S,
            )

    @contextlib.contextmanager
    def _a_place(self) -> Iterator[None]:
        self.check_place()
        self._running += 1
        try:
            yield
        except BaseException:
            self._failed += 1
            raise
        else:
            self._answered += 1
        finally:
            self._running -= 1

    async def aclose(self) -> None:
        await self._searcher.__aexit__(None, None, None)
        await self._redis.aclose()


def broker_request(request: SearchRequest) -> BrokerRequest:
    """The same in the coordinator's words. Raises: ApiError: `depth` and the knob top_k differ."""
    knobs = dict(request.knobs)
    if request.depth is not None and knobs.setdefault("top_k", request.depth) != request.depth:
        detail = f"depth is {request.depth}, but the knob top_k {knobs['top_k']}: give one"
        raise ApiError(422, "invalid-search", detail)
    feedback = request.target_feedback
    return BrokerRequest(
        modification_text=request.modification_text,
        gallery=request.gallery,
        database=request.database,
        reference_id=request.reference_image_id,
        reference_upload=request.reference_upload,
        crop=request.crop,
        negative_text=request.negative_text,
        weights=request.weights.model_dump(exclude_unset=True),
        feedback_id=None if feedback is None else feedback.image_id,
        earlier_texts=tuple(request.earlier.texts),
        description=request.earlier.description,
        k=request.k,
        filter=request.filter,
        knobs=knobs,
        timeout_s=request.timeout_s,
    )


def _shown(answer: SearchAnswer) -> SearchView:
    return SearchView.model_validate(msgspec.to_builtins(answer))
