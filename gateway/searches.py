"""Searches as `broker.search` runs them, in the words of the HTTP API."""

from __future__ import annotations

import msgspec
from redis.asyncio import Redis

from broker.search import Searcher, SearchTimeoutError
from broker.search import SearchRequest as BrokerRequest
from gateway.errors import ApiError
from gateway.records import SearchRequest, SearchView
from shared.errors import ConfigurationError, DatasetError, ItemError, PermanentError
from shared.settings import Settings


class BrokerSearches:
    """`gateway.ports.Searches`: one `Searcher`, and with it one reply list, per process."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        """`redis` waits while Redis is away (`shared.bus.connection.connect`); closed with this."""
        self._redis = redis
        self._searcher = Searcher(redis, settings)

    async def search(self, request: SearchRequest) -> SearchView:
        wanted = BrokerRequest(**request.model_dump())
        try:
            answer = await self._searcher.search(wanted)
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
        return SearchView.model_validate(msgspec.to_builtins(answer))

    async def aclose(self) -> None:
        await self._searcher.__aexit__(None, None, None)
        await self._redis.aclose()
