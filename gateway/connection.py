"""One connection to a gateway: requests, pages, events, and what a refusal says."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from gateway.records import Page, Problem, Record
from shared.errors import PermanentError, TransientError
from shared.settings import mask_secrets

Answer = TypeVar("Answer", bound=Record)
Pages = TypeVar("Pages", bound=Page)
_STREAM_PATIENCE_S = 60.0
"""A stream says that it lives every 15 s."""


class GatewayUnreachableError(TransientError):
    """Nothing answers at the gateway's URL."""


class GatewayError(PermanentError):
    """The gateway refused a request.

    Attributes:
        problem: the problem details it answered with.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class Connection:
    """Asks one gateway, and makes its answers records. Usable as a context manager.

    Raises (every method): GatewayUnreachableError, GatewayError.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str = "",
        timeout_s: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """
        Args:
            api_key: where the gateway asks for one; empty = the environment's XR_API_KEY, if any.
        """
        self.url = url.rstrip("/")
        api_key = api_key or os.environ.get("XR_API_KEY", "")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(
            base_url=self.url, timeout=timeout_s, transport=transport, headers=headers
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back its connections; as a context manager it does so itself."""
        self._http.close()

    def _ask(self, method: str, path: str, kind: type[Answer], **options: Any) -> Answer:
        return kind.model_validate_json(self._answer(method, path, **options).content)

    def _pages(
        self, path: str, kind: type[Pages], params: Mapping[str, Any] | None = None
    ) -> Iterator[Pages]:
        token = ""
        while True:
            page = self._ask("GET", path, kind, params={**(params or {}), "page_token": token})
            yield page
            token = page.next_page_token
            if not token:
                return

    def _events(self, method: str, path: str, **options: Any) -> Iterator[tuple[str, str]]:
        """(name, data) of each server-sent event. Raises: GatewayError: also for a `problem`."""
        options.setdefault("timeout", _STREAM_PATIENCE_S)
        with self._reached(), self._http.stream(method, path, **options) as response:
            if response.is_error:
                response.read()
                raise refusal(response)
            name = ""
            for line in response.iter_lines():
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    if name == "problem":
                        raise GatewayError(Problem.model_validate_json(value))
                    yield name, value

    def _answer(self, method: str, path: str, **options: Any) -> httpx.Response:
        with self._reached():
            response = self._http.request(method, path, **options)
        if response.is_error:
            raise refusal(response)
        return response

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            raise GatewayUnreachableError(
                f"no gateway answers at {mask_secrets(self.url)} ({error}): start one with "
                "`xr up`, or name another with --gateway or XR_GATEWAY_URL"
            ) from error


def refusal(response: httpx.Response) -> GatewayError:
    """The error that an answer is, also where it comes from a proxy in between."""
    try:
        return GatewayError(Problem.model_validate_json(response.content))
    except ValueError:  # a proxy in between, not the gateway
        status, text = response.status_code, response.text[:200]
        return GatewayError(
            Problem(
                type="about:blank",
                title=response.reason_phrase,
                status=status,
                detail=f"{mask_secrets(str(response.request.url))} answered {status}: {text}",
            )
        )
