"""One run from its request to its metrics: gallery, image database, queries, evaluation."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from broker.agents_client import AgentsClient, Ask, tag_of
from broker.agents_roster import (
    agents_needed,
    describe_mixture,
    prompt_digests,
    wait_for_agents,
)
from broker.coordinator import SearchSpace, query_answerer
from broker.evaluation import count
from broker.image_index import INDEX_AGENTS, build_image_database, writer_for
from broker.manifest import BINDING, commit, describe_run, versions
from broker.query_state import QueryState
from broker.query_window import run_queries
from broker.restoring import answers_of, check_surroundings, restored
from broker.routing import Routing
from broker.run_costs import RunCosts, Spent, costs_line
from broker.run_gallery import RunGallery, alone_with, open_run_gallery
from broker.run_guards import (
    CancelledRun,
    InterruptedRunError,
    Parent,
    sigterm_as_event,
    under_guard,
    until_cancelled,
)
from broker.run_lease import LeaseLostError, RunLease
from broker.run_log import log_into
from broker.run_results import RunQuestions, write_results
from broker.run_status import (
    CANCELLED,
    FAILED,
    FINISHED,
    OVER,
    QUEUED,
    RUNNING,
    Publish,
    RunStatus,
    say_failed,
)
from broker.run_store import (
    MANIFEST,
    STATUS,
    RunStore,
    clear_about_the_disk,
    read_json,
    run_folder,
)
from shared.bus import keys
from shared.bus.client import BusClient
from shared.datasets import Benchmark, Query
from shared.errors import PermanentError
from shared.image_database import ImageDatabase, is_finished, open_image_database
from shared.index_choice import describe_choice, deviation_of, read_choice
from shared.knobs import resolve
from shared.profile_files import profile_knobs
from shared.prompt_files import kept_prompts
from shared.settings import Settings

logger = logging.getLogger(__name__)

_PUBLISH_INTERVAL_S = 0.5
_ROSTER_INTERVAL_S = 5.0
_COSTS_INTERVAL_S = 5.0
_LAST_WORDS_S = 2.0


async def coordinate(
    run_id: str,
    settings: Settings,
    redis: Redis,
    publish: Publish,
    lease_s: float = 10.0,
) -> dict[str, Any]:
    """Bring a run to its end, from wherever it is.

    Only one live owner works on a run: a copy of the job waits until the owner's lease ends, and
    returns when the run is over by then.

    Args:
        redis: a client of one's own for this run.
        publish: told of the status every half second.
    Returns: the final status.
    Raises:
        PermanentError: trying again cannot help; the status says "failed".
        TransientError: the run can be taken up again (`LeaseLostError`: somebody else has).
    """
    lease, parent = RunLease(redis, run_id, lease_s), Parent()

    def status() -> dict[str, Any]:
        return read_json(settings.runs_folder, run_id, STATUS) or {}

    async def is_over() -> bool:
        return status().get("state") in OVER

    async with sigterm_as_event() as terminated:
        try:
            epoch = await under_guard(
                lease.acquire(is_over, lambda: int(status().get("owner", 0))),
                [parent.until_told_to_stop(terminated)],
            )
            if epoch is None or await is_over():  # RQ may start a job again that had just ended
                return status()
            try:
                folder = run_folder(settings.runs_folder, run_id)
                with clear_about_the_disk(folder, run_id):
                    run = _Run(run_id, epoch, settings, redis, lease, publish)
            except PermanentError as error:  # what is there of the run cannot be read
                await say_failed(redis, settings.runs_folder, run_id, str(error))
                raise
            return await run.to_its_end(parent.until_told_to_stop(terminated))
        finally:
            with contextlib.suppress(RedisError):
                await lease.release()


class _Run:
    """One owner's work on a run."""

    def __init__(
        self,
        run_id: str,
        epoch: int,
        settings: Settings,
        redis: Redis,
        lease: RunLease,
        publish: Publish,
    ) -> None:
        self._run_id, self._epoch = run_id, epoch
        self._settings, self._redis, self._lease = settings, redis, lease
        self._store = RunStore(settings.runs_folder, run_id)
        self._status = RunStatus(self._store, epoch, redis, publish)
        self._progress = self._status.progress
        self._costs = RunCosts(settings.runs_folder, run_id, self._store.folder)
        self._spent: Spent = {}
        self._needed: tuple[str, ...] = ()
        self._questions: RunQuestions | None = None
        self._bus = BusClient(
            redis, keys.reply(tag_of(run_id, epoch)), queue_limit=settings.queue_limit
        )

    async def to_its_end(self, until_told_to_stop: Coroutine[Any, Any, None]) -> dict[str, Any]:
        with log_into(self._store.folder, self._settings.log_level):
            try:
                return await self._to_its_end(until_told_to_stop)
            finally:
                await self._store.close()
                with contextlib.suppress(OSError):
                    logger.info("%s", costs_line(self._costs.write(self._spent)))
                with contextlib.suppress(RedisError):
                    await self._bus.aclose()

    async def _to_its_end(self, until_told_to_stop: Coroutine[Any, Any, None]) -> dict[str, Any]:
        program = f"version {versions().get('xr-retrieval', '?')}, commit {commit() or '?'}"
        logger.info("run %s, owner number %d: %s", self._run_id, self._epoch, program)
        guards = [
            self._lease.keep(),
            until_cancelled(self._redis, self._run_id),
            until_told_to_stop,
            self._watch_the_agents(),
            self._keep_publishing(),
            self._keep_costs(),
        ]
        try:
            with clear_about_the_disk(self._store.folder, self._run_id):
                await under_guard(self._begin_and_work(), guards)
                return await self._status.tell(FINISHED)
        except CancelledRun:
            return await self._stop_for_good()
        except LeaseLostError:
            raise  # the run is somebody else's: not a word about it
        except InterruptedRunError as error:
            with contextlib.suppress(TimeoutError):  # Redis may be gone for good
                await asyncio.wait_for(self._give_back(str(error)), _LAST_WORDS_S)
            raise
        except PermanentError as error:
            logger.error("run %s failed: %s", self._run_id, error)
            await self._last_words(FAILED, str(error))
            raise
        except Exception as error:
            logger.exception("run %s stopped", self._run_id)
            await self._last_words(QUEUED, f"{type(error).__name__}: {error}")
            raise

    async def _begin_and_work(self) -> None:
        if self._epoch > 1:  # the former owner is dead: what it queued is waste
            await self._bus.cancel(tag_of(self._run_id, self._epoch - 1))
        await self._status.tell(RUNNING)
        async with alone_with(self._settings, self._store.request):
            await self._work()

    # --- the work ---------------------------------------------------------------------------------

    async def _work(self) -> None:
        settings, request = self._settings, self._store.request
        knobs = resolve(
            request.knobs, profile_knobs(request.profile or settings.profile), settings.seed
        )
        recorded = restored(settings, request, knobs)
        self._progress.begin("gallery", 0)
        opened = await asyncio.to_thread(
            open_run_gallery,
            settings,
            request,
            lambda done, total: self._progress.update(done, total, 0),
        )
        benchmark, queries, gallery = opened.benchmark, opened.queries, opened.gallery
        self._progress.update(len(gallery), len(gallery), len(gallery.failures))
        self._questions = RunQuestions(benchmark, queries, gallery, knobs)

        self._progress.begin("agents", 1)
        needed = INDEX_AGENTS if request.index_only else agents_needed(knobs)
        identities = await wait_for_agents(
            self._bus.live_agents, needed, self._status.say, knobs=knobs
        )
        self._status.say("")
        self._needed = needed
        self._progress.update(1, 1, 0)

        async with AgentsClient(self._bus, self._run_id, self._epoch, settings) as agents:
            self._spent = agents.spent
            database = await self._image_database(opened, identities, agents)
            if opened.next_version is not None:
                await opened.next_version.publish(database, self._run_id)
            choice = await asyncio.to_thread(read_choice, database.folder)
            if deviation := deviation_of(choice):
                logger.info("image database %s: %s", database.key, deviation)
                benchmark = _deviating(benchmark, deviation)
                self._questions = RunQuestions(benchmark, queries, gallery, knobs)
            manifest = describe_run(
                request,
                benchmark,
                len(queries),
                knobs,
                settings,
                identities,
                {
                    "key": gallery.key,
                    "images": len(gallery),
                    "searchable": gallery.searchable,
                    "failed_images": len(gallery.failures),
                },
                {
                    "key": database.key,
                    "failed_rows": len(database.failures),
                    **describe_choice(choice),
                },
            )
            ask: Ask = agents.ask
            if settings.route_images:
                content = gallery.listing
                ask = Routing(agents.ask, self._bus.live_agents, lambda row: content[row].sha256)
            if recorded is not None:
                check_surroundings(recorded, request.skip_stages, manifest)
                ask = answers_of(recorded, request.skip_stages, ask)
            self._store.keep_manifest(manifest, BINDING)
            self._keep_prompts(prompt_digests(identities))
            if request.index_only:
                self._end_with(database)
                return
            space = SearchSpace(
                gallery=gallery.key,
                database=database.key,
                row_of=gallery.row_of,
                caption_of=database.captions.__getitem__,
                exclude_reference=benchmark.protocol.exclude_reference,
                verify_chunk=settings.verify_chunk,
                rows=len(database),
            )
            answer = query_answerer(queries, self._store.states, ask, space, knobs)
            await self._answer(queries, answer)
            logger.info(
                "%d requests asked again, %d replies ignored", agents.asked_again, agents.duplicates
            )

        self._progress.begin("evaluation", 1)
        await self._write_results(self._questions)
        self._progress.update(1, 1, 0)
        self._progress.begin(
            "done", len(queries), len(queries), self._status.counts.get("failed", 0)
        )
        self._progress.end()

    def _keep_prompts(self, digests: Mapping[str, str]) -> None:
        prompts = kept_prompts(self._settings.prompts_folder, digests)
        self._store.keep_prompts(prompts)
        if unknown := sorted(digests.keys() - prompts.keys()):
            logger.warning("only the digests are known of the prompts %s", ", ".join(unknown))

    async def _write_results(self, asked: RunQuestions, partial: bool = False) -> None:
        """Predictions and metrics of all queries, or, `partial`, of those that are answered."""
        logger.info(
            "metrics\n%s", await asyncio.to_thread(write_results, self._store, asked, partial)
        )

    async def _image_database(
        self,
        opened: RunGallery,
        identities: Mapping[str, Mapping[str, Any]],
        agents: AgentsClient,
    ) -> ImageDatabase:
        gallery, captions = opened.gallery, opened.benchmark.captions
        self._progress.begin("image_database", len(gallery))
        database = await asyncio.to_thread(self._recorded_database)
        if database is None:
            writer = await asyncio.to_thread(
                writer_for,
                self._settings.image_db_folder,
                gallery,
                captions,
                identities,
                self._store.request.retry_failed,
                opened.predecessor,
            )
            database = await build_image_database(
                gallery, agents.ask, writer, self._progress.update, captions
            )
        failed = len({failure.row for failure in database.failures})
        self._progress.update(len(gallery), len(gallery), failed)
        for failure in database.failures:
            logger.warning("image %s, %s: %s", failure.image_id, failure.step, failure.reason)
        return database

    def _recorded_database(self) -> ImageDatabase | None:
        """What the run has begun with, which it keeps though there may be a newer version."""
        former = read_json(self._settings.runs_folder, self._run_id, MANIFEST) or {}
        key = former.get("database", {}).get("key", "")
        folder = self._settings.image_db_folder
        if not key or not self._store.states or not is_finished(folder, key):
            return None
        return open_image_database(folder, key)

    def _end_with(self, database: ImageDatabase) -> None:
        """The end of a run that only builds the image database."""
        images, failed = len(database), len({failure.row for failure in database.failures})
        self._status.counts = {"images": images, "failed_images": failed}
        self._status.say(f"image database {database.key}")
        self._progress.begin("done", images, images, failed)
        self._progress.end()

    async def _answer(
        self, queries: tuple[Query, ...], answer: Callable[[Query], Awaitable[QueryState]]
    ) -> None:
        finished = self._store.finished_ids()
        waiting = [query for query in queries if query.query_id not in finished]
        self._status.counts = await asyncio.to_thread(count, queries, self._store.states)
        done = len(queries) - len(waiting)
        failed = sum(
            state.status == "failed" and not state.unanswered
            for state in self._store.states.values()
        )
        self._progress.begin("queries", len(queries), done, failed)

        def tell(state: QueryState) -> None:
            nonlocal done, failed
            done += 1
            failed += state.status == "failed"
            self._progress.update(done, len(queries), failed)

        # Cancelling the run cancels this task, so the window needs no flag of its own.
        await run_queries(
            waiting, self._settings.window, answer, self._store.record, tell, asyncio.Event()
        )
        self._status.counts = await asyncio.to_thread(count, queries, self._store.states)

    # --- ends -------------------------------------------------------------------------------------

    async def _stop_for_good(self) -> dict[str, Any]:
        """Somebody cancelled: say so at once, then write down what there is."""
        logger.info("run %s was cancelled", self._run_id)
        await self._bus.cancel(tag_of(self._run_id, self._epoch))
        asked, states = self._questions, self._store.states
        if asked is not None:
            answered = len(states)
            self._status.counts = {
                "queries": len(asked.queries),
                "answered": answered,
                "missing": len(asked.queries) - answered,
            }
        status = await self._last_words(CANCELLED)
        if asked is not None and states:
            try:  # whoever resumes the run waits until the lease is given back
                await under_guard(self._write_results(asked, partial=True), [self._lease.keep()])
            except Exception:
                logger.exception("the partial results of run %s cannot be written", self._run_id)
        return status

    async def _last_words(self, state: str, error: str = "") -> dict[str, Any]:
        """Tell how it ends, if only Redis, should the disk take no more."""
        with contextlib.suppress(OSError):
            return await self._status.tell(state, error)
        logger.error("%s: status.json cannot be written; the run is %s", self._store.folder, state)
        return self._status.as_of(state, error)

    async def _give_back(self, reason: str) -> None:
        """Let the next owner begin without this one's messages in its way."""
        await self._last_words(QUEUED, reason)
        await self._bus.cancel(tag_of(self._run_id, self._epoch))

    # --- the guards -------------------------------------------------------------------------------

    async def _watch_the_agents(self) -> None:
        """A worker with another model that joins halfway would make the run a mixture."""
        mixed = 0
        while True:
            await asyncio.sleep(_ROSTER_INTERVAL_S)
            with contextlib.suppress(RedisError):
                mixture = describe_mixture(await self._bus.live_agents(), self._needed)
                mixed = mixed + 1 if mixture else 0
                if mixed > 2:  # heartbeats of stopped workers outlive them for some seconds
                    raise PermanentError(mixture)

    async def _keep_costs(self) -> None:
        while True:
            await asyncio.sleep(_COSTS_INTERVAL_S)
            with contextlib.suppress(OSError):
                self._costs.write(self._spent)

    async def _keep_publishing(self) -> None:
        while True:
            await asyncio.sleep(_PUBLISH_INTERVAL_S)
            await self._status.publish(RUNNING)


def _deviating(benchmark: Benchmark, deviation: str) -> Benchmark:
    protocol = benchmark.protocol
    deviations = (*protocol.deviations, deviation)
    return msgspec.structs.replace(
        benchmark, protocol=msgspec.structs.replace(protocol, deviations=deviations)
    )
