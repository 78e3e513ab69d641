"""A typed client of the HTTP API, for the command line, tests and users' own programs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gateway.connection import Connection, GatewayError, GatewayUnreachableError, refusal
from gateway.records import (
    TERMINAL_STATES,
    AgentList,
    AgentView,
    BenchmarkList,
    BenchmarkRequest,
    BenchmarkView,
    CoordinatorsView,
    DeadLetterList,
    GalleryField,
    GalleryFieldList,
    GalleryImage,
    GalleryImageList,
    GalleryList,
    GalleryUpdate,
    GalleryVersionList,
    GalleryVersionView,
    GalleryView,
    ProfileList,
    ProfileView,
    QueryList,
    QuerySummary,
    QueryView,
    Readiness,
    RunComparison,
    RunDetails,
    RunList,
    RunSummary,
    SearchRequest,
    SearchView,
    SubmissionList,
    SystemView,
    UploadView,
)

__all__ = ["Client", "GatewayError", "GatewayUnreachableError"]


class Client(Connection):
    """Talks to one gateway. Usable as a context manager.

    Raises (every method): GatewayUnreachableError, GatewayError.
    """

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
        idempotency_key: str = "",
    ) -> BenchmarkView:
        """Queue a benchmark; returns it with its id. The same idempotency key, the same run."""
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
        headers = _idempotent(idempotency_key)
        return self._ask("POST", "/v1/benchmarks", BenchmarkView, json=body, headers=headers)

    def benchmark(self, benchmark_id: str) -> BenchmarkView:
        """A run: its state, its progress by phase, its metrics once it has finished."""
        return self._ask("GET", f"/v1/benchmarks/{benchmark_id}", BenchmarkView)

    def benchmarks(self, *, dataset: str = "", state: str = "") -> list[BenchmarkView]:
        """Known runs, newest first; all pages of them."""
        wanted = {name: value for name, value in (("dataset", dataset), ("state", state)) if value}
        pages = self._pages("/v1/benchmarks", BenchmarkList, wanted)
        return [view for page in pages for view in page.benchmarks]

    def cancel(self, benchmark_id: str) -> BenchmarkView:
        """Stop a run; what it has finished stays."""
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
        sleep: Callable[[float], object] = time.sleep,
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
                raise refusal(response)
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

    def events(self, benchmark_id: str) -> Iterator[BenchmarkView]:
        """The run whenever something changed, pushed by the gateway; the last one is its end.

        It also ends when the gateway stops; `follow` waits for it to come back.
        """
        path = f"/v1/benchmarks/{benchmark_id}/events"
        for _, data in self._events("GET", path):
            yield BenchmarkView.model_validate_json(data)

    def queries(
        self, benchmark_id: str, *, stage: str = "", sort: str = "dataset"
    ) -> Iterator[QuerySummary]:
        """Every query of a run and the ranks of its target, fetched page by page."""
        wanted = {"stage": stage, "sort": sort, "page_size": 1000}
        for page in self._pages(f"/v1/benchmarks/{benchmark_id}/queries", QueryList, wanted):
            yield from page.queries

    def query(self, benchmark_id: str, query_id: str, *, k: int = 20) -> QueryView:
        """One query of a run with all its evidence."""
        path = f"/v1/benchmarks/{benchmark_id}/queries/{_quoted(query_id)}"
        return self._ask("GET", path, QueryView, params={"k": k})

    def runs(self) -> list[RunSummary]:
        """All runs in short, newest first."""
        return [run for page in self._pages("/v1/runs", RunList) for run in page.runs]

    def run(self, run_id: str) -> RunDetails:
        """A run's manifest and metrics."""
        return self._ask("GET", f"/v1/runs/{run_id}", RunDetails)

    def compare(self, first: str, second: str, *, k: int | None = None) -> RunComparison:
        """Two finished runs of one data set, query by query."""
        params = {} if k is None else {"k": k}
        path = f"/v1/runs/{first}/comparison/{second}"
        return self._ask("GET", path, RunComparison, params=params)

    def galleries(self) -> list[GalleryView]:
        """All galleries, last used first."""
        pages = self._pages("/v1/galleries", GalleryList)
        return [view for page in pages for view in page.galleries]

    def gallery(self, key: str) -> GalleryView:
        """One by its key or its name."""
        return self._ask("GET", f"/v1/galleries/{_quoted(key)}", GalleryView)

    def create_gallery(self, name: str, folder: str, *, idempotency_key: str = "") -> GalleryView:
        """Index the images of a folder on the server, below its data root."""
        body = {"name": name, "folder": folder}
        headers = _idempotent(idempotency_key)
        return self._ask("POST", "/v1/galleries", GalleryView, json=body, headers=headers)

    def upload_gallery(self, name: str, images: Sequence[Path]) -> GalleryView:
        """Index images of this machine: files, or one zip file of them."""
        field = "archive" if [path.suffix.lower() for path in images] == [".zip"] else "images"
        with ExitStack() as stack:
            files = [(field, (path.name, stack.enter_context(path.open("rb")))) for path in images]
            return self._ask(
                "POST", "/v1/galleries", GalleryView, data={"name": name}, files=files, timeout=None
            )

    def put_images(
        self,
        name: str,
        images: Mapping[str, Path | bytes],
        *,
        metadata: Mapping[str, Mapping[str, Any]] | None = None,
        idempotency_key: str = "",
    ) -> GalleryUpdate:
        """Add images to a named gallery, or replace those of the same ids; set fields.

        Args:
            images: by image id; may be empty where there is `metadata`.
            metadata: image id -> all fields that it has from now on.
        """
        form = {} if metadata is None else {"metadata": json.dumps(metadata)}
        with ExitStack() as stack:
            files = [
                (
                    "images",
                    (
                        image_id,
                        image
                        if isinstance(image, bytes)
                        else stack.enter_context(image.open("rb")),
                    ),
                )
                for image_id, image in images.items()
            ]
            # Without a file a form is sent as another kind of body.
            return self._change(
                name,
                "images",
                idempotency_key,
                data=form,
                files=files or {"none": (None, "")},
                timeout=None,
            )

    def put_archive(self, name: str, archive: Path, *, idempotency_key: str = "") -> GalleryUpdate:
        """The same with the images of a zip file; their paths in it are their ids."""
        with archive.open("rb") as opened:
            files = [("archive", (archive.name, opened))]
            return self._change(name, "images", idempotency_key, files=files, timeout=None)

    def remove_images(
        self, name: str, image_ids: Sequence[str], *, idempotency_key: str = ""
    ) -> GalleryUpdate:
        """Remove images from a named gallery; versions that have them keep them."""
        body = {"image_ids": list(image_ids)}
        return self._change(name, "removals", idempotency_key, json=body)

    def refresh_gallery(self, name: str) -> GalleryUpdate:
        """Bring in what has become of the server folder of a named gallery."""
        return self._change(name, "refresh", "", timeout=None)

    def gallery_versions(self, name: str) -> list[GalleryVersionView]:
        """The versions of a named gallery, the current one first."""
        pages = self._pages(f"/v1/galleries/{_quoted(name)}/versions", GalleryVersionList)
        return [version for page in pages for version in page.versions]

    def _change(self, name: str, what: str, idempotency_key: str, **options: Any) -> GalleryUpdate:
        path = f"/v1/galleries/{_quoted(name)}/{what}"
        headers = _idempotent(idempotency_key)
        return self._ask("POST", path, GalleryUpdate, headers=headers, **options)

    def delete_gallery(self, key: str) -> None:
        """Forget a gallery and its databases; images of a server folder stay."""
        self._answer("DELETE", f"/v1/galleries/{_quoted(key)}")

    def gallery_images(self, key: str) -> Iterator[GalleryImage]:
        """Its images with their captions, fetched page by page."""
        path = f"/v1/galleries/{_quoted(key)}/images"
        for page in self._pages(path, GalleryImageList, {"page_size": 1000}):
            yield from page.images

    def gallery_fields(self, key: str) -> list[GalleryField]:
        """What is known of its images, for the filter of a search."""
        path = f"/v1/galleries/{_quoted(key)}/fields"
        return self._ask("GET", path, GalleryFieldList).fields

    def image(self, key: str, image_id: str, *, width: int | None = None) -> bytes:
        """An image's file, or a JPEG of it about so wide."""
        params = {} if width is None else {"width": width}
        path = f"/v1/galleries/{_quoted(key)}/images/{_quoted(image_id)}"
        return self._answer("GET", path, params=params).content

    def upload(self, image: bytes | Path) -> UploadView:
        """Keep an image for a day, as a reference of searches."""
        content = image.read_bytes() if isinstance(image, Path) else image
        headers = {"Content-Type": "application/octet-stream"}
        return self._ask("POST", "/v1/uploads", UploadView, content=content, headers=headers)

    def system(self) -> SystemView:
        """Queues, workers and throughput now."""
        return self._ask("GET", "/v1/system", SystemView)

    def profiles(self) -> list[ProfileView]:
        """The model profiles it knows."""
        return self._ask("GET", "/v1/profiles", ProfileList).profiles

    def knobs(self) -> dict[str, Any]:
        """The JSON schema of the knobs."""
        schema: dict[str, Any] = self._answer("GET", "/v1/knobs").json()
        return schema

    def readiness(self) -> Readiness:
        """Whether benchmarks would run now; "not ready" is an answer here, not an error."""
        with self._reached():
            response = self._http.get("/readyz")
        if response.status_code not in (200, 503):
            raise refusal(response)
        return Readiness.model_validate_json(response.content)

    def agents(self) -> list[AgentView]:
        """Every kind of agent: its queue and its living processes."""
        return self._ask("GET", "/v1/agents", AgentList).agents

    def dead_letters(self, agent: str) -> DeadLetterList:
        """Messages that were given up, and why."""
        return self._ask("GET", f"/v1/agents/{agent}/dead-letters", DeadLetterList)

    def retry_dead_letter(self, agent: str, entry_id: str) -> DeadLetterList:
        """Put one of them back into its queue."""
        path = f"/v1/agents/{agent}/dead-letters/{entry_id}/retry"
        return self._ask("POST", path, DeadLetterList)

    def retry_all_dead_letters(self, agent: str) -> DeadLetterList:
        """Put all of them back."""
        return self._ask("POST", f"/v1/agents/{agent}/dead-letters/retry", DeadLetterList)

    def coordinators(self) -> CoordinatorsView | None:
        """Who takes benchmark jobs, and how many wait."""
        return self._ask("GET", "/v1/agents", AgentList).coordinators

    def search(self, request: SearchRequest) -> SearchView:
        """One search, before all benchmark work."""
        patience_s = request.timeout_s + 10.0
        # What was not set stays out: a weight that is given is a wish, a default is none.
        body = request.model_dump(mode="json", exclude_unset=True)
        return self._ask("POST", "/v1/search", SearchView, json=body, timeout=patience_s)

    def search_stream(self, request: SearchRequest) -> Iterator[SearchView]:
        """The coarse answer as soon as it is there, then the complete one."""
        body = request.model_dump(mode="json", exclude_unset=True)
        patience_s = request.timeout_s + 10.0
        for _, data in self._events("POST", "/v1/search/stream", json=body, timeout=patience_s):
            yield SearchView.model_validate_json(data)


def _idempotent(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key} if key else {}


def _quoted(part: str) -> str:
    """Part of a path; slashes stay, as image ids are often paths themselves."""
    return quote(part, safe="/")
