"""A typed client of the HTTP API, for the command line, tests and users' own programs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx

from gateway.records import (
    TERMINAL_STATES,
    AgentList,
    AgentView,
    BenchmarkList,
    BenchmarkRequest,
    BenchmarkView,
    CoordinatorsView,
    DeadLetterList,
    Problem,
    Readiness,
    Record,
    SearchRequest,
    SearchView,
    SubmissionList,
)
from shared.errors import PermanentError, TransientError
from shared.settings import mask_secrets

Answer = TypeVar("Answer", bound=Record)


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


class GatewayClient:
    """Talks to one gateway. Usable as a context manager.

    Raises (every method): GatewayUnreachableError, GatewayError.
    """

    def __init__(
        self, url: str, *, timeout_s: float = 30.0, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(base_url=self.url, timeout=timeout_s, transport=transport)

    def __enter__(self) -> GatewayClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def submit(
        self,
        dataset: str,
        split: str,
        *,
        name: str = "",
        knobs: Mapping[str, Any] | None = None,
        limit: int | None = None,
        restore: str = "",
        skip_stages: int = 0,
        index_only: bool = False,
        retry_failed: bool = False,
        read_images_again: bool = False,
    ) -> BenchmarkView:
        """Queue a benchmark; returns it with its id."""
        request = BenchmarkRequest(
            dataset=dataset,
            split=split,
            name=name,
            knobs=dict(knobs or {}),
            limit=limit,
            restore=restore,
            skip_stages=skip_stages,
            index_only=index_only,
            retry_failed=retry_failed,
            read_images_again=read_images_again,
        )
        body = request.model_dump(mode="json")
        return self._ask("POST", "/v1/benchmarks", BenchmarkView, json=body)

    def benchmark(self, benchmark_id: str) -> BenchmarkView:
        return self._ask("GET", f"/v1/benchmarks/{benchmark_id}", BenchmarkView)

    def benchmarks(self) -> list[BenchmarkView]:
        """Known runs, newest first."""
        return self._ask("GET", "/v1/benchmarks", BenchmarkList).benchmarks

    def cancel(self, benchmark_id: str) -> BenchmarkView:
        return self._ask("DELETE", f"/v1/benchmarks/{benchmark_id}", BenchmarkView)

    def resume(self, benchmark_id: str) -> BenchmarkView:
        """Queue a failed or cancelled run again; it goes on where it was."""
        return self._ask("POST", f"/v1/benchmarks/{benchmark_id}/resume", BenchmarkView)

    def follow(
        self,
        benchmark_id: str,
        *,
        every_s: float = 0.5,
        patience_s: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Iterator[BenchmarkView]:
        """The run again and again until it has ended; the last one yielded is its end.

        A gateway that is away for less than `patience_s` (a restart) is waited for: the run goes
        on without it.
        """
        last_answer = time.monotonic()
        while True:
            try:
                view = self.benchmark(benchmark_id)
            except GatewayUnreachableError:
                if time.monotonic() - last_answer > patience_s:
                    raise
            else:
                last_answer = time.monotonic()
                yield view
                if view.state in TERMINAL_STATES:
                    return
            sleep(every_s)

    def download(
        self,
        benchmark_id: str,
        kind: str,
        path: Path,
    ) -> None:
        """Write one of a run's result files to `path`.

        Args:
            kind: predictions, manifest, metrics-table, or submissions/NAME.
        """
        with (
            self._reached(),
            self._http.stream("GET", f"/v1/benchmarks/{benchmark_id}/{kind}") as response,
        ):
            if response.is_error:
                response.read()
                raise _refusal(response)
            with path.open("wb") as file:
                for chunk in response.iter_bytes():
                    file.write(chunk)

    def submissions(self, benchmark_id: str) -> list[str]:
        """Names of the run's files for evaluation servers."""
        path = f"/v1/benchmarks/{benchmark_id}/submissions"
        return self._ask("GET", path, SubmissionList).submissions

    def predictions(self, benchmark_id: str) -> Iterator[dict[str, Any]]:
        """Each query's line of predictions.jsonl."""
        answer = self._answer("GET", f"/v1/benchmarks/{benchmark_id}/predictions")
        # Not by `iter_lines`, which ends lines at characters that image ids may hold.
        yield from (json.loads(line) for line in answer.content.split(b"\n") if line)

    def metrics_table(self, benchmark_id: str) -> str:
        """The metrics as a table for reading."""
        return self._answer("GET", f"/v1/benchmarks/{benchmark_id}/metrics-table").text

    def readiness(self) -> Readiness:
        """Whether benchmarks would run now; "not ready" is an answer here, not an error."""
        with self._reached():
            response = self._http.get("/readyz")
        if response.status_code not in (200, 503):
            raise _refusal(response)
        return Readiness.model_validate_json(response.content)

    def agents(self) -> list[AgentView]:
        return self._ask("GET", "/v1/agents", AgentList).agents

    def dead_letters(self, agent: str) -> DeadLetterList:
        return self._ask("GET", f"/v1/agents/{agent}/dead-letters", DeadLetterList)

    def retry_dead_letter(self, agent: str, entry_id: str) -> DeadLetterList:
        path = f"/v1/agents/{agent}/dead-letters/{entry_id}/retry"
        return self._ask("POST", path, DeadLetterList)

    def retry_all_dead_letters(self, agent: str) -> DeadLetterList:
        return self._ask("POST", f"/v1/agents/{agent}/dead-letters/retry", DeadLetterList)

    def coordinators(self) -> CoordinatorsView | None:
        """Who takes benchmark jobs, and how many wait."""
        return self._ask("GET", "/v1/agents", AgentList).coordinators

    def search(self, request: SearchRequest) -> SearchView:
        """One search, before all benchmark work."""
        patience_s = request.timeout_s + 10.0
        body = request.model_dump(mode="json", exclude_defaults=True)
        return self._ask("POST", "/v1/search", SearchView, json=body, timeout=patience_s)

    def _ask(self, method: str, path: str, kind: type[Answer], **options: Any) -> Answer:
        return kind.model_validate_json(self._answer(method, path, **options).content)

    def _answer(self, method: str, path: str, **options: Any) -> httpx.Response:
        with self._reached():
            response = self._http.request(method, path, **options)
        if response.is_error:
            raise _refusal(response)
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


def _refusal(response: httpx.Response) -> GatewayError:
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
