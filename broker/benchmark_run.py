"""One run from its request to its metrics: gallery, image database, queries, evaluation."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from broker.agents_client import AgentsClient, tag_of
from broker.agents_roster import (
    agents_needed,
    captioner_identity,
    describe_mixture,
    wait_for_agents,
)
from broker.coordinator import SearchSpace, answer_query
from broker.evaluation import count, evaluate_run, predictions, rank_run, table
from broker.image_index import build_image_database
from broker.manifest import BINDING, describe_run
from broker.query_state import QueryState
from broker.query_window import run_queries
from broker.run_keys import cancel_key
from broker.run_lease import LeaseLostError, RunLease
from broker.run_status import CANCELLED, FAILED, FINISHED, OVER, QUEUED, RUNNING, Publish, RunStatus
from broker.run_store import LOG, STATUS, RunStore, change_status, read_json
from shared import knobs as knobs_module
from shared.bus import keys
from shared.bus.client import BusClient
from shared.datasets import Query, load_dataset
from shared.errors import PermanentError, TransientError
from shared.galleries import Gallery, write_gallery
from shared.image_database import ImageDatabase
from shared.image_database_writer import ImageDatabaseWriter
from shared.settings import Settings
from shared.tasks import stop_tasks

logger = logging.getLogger(__name__)

_PUBLISH_INTERVAL_S = 0.5
_CANCEL_INTERVAL_S = 0.4
_ROSTER_INTERVAL_S = 5.0
_ORPHAN_INTERVAL_S = 1.0
_LAST_WORDS_S = 2.0


class InterruptedRunError(TransientError):
    """The process was asked to stop; the run goes on where it was when it is picked up again."""


class _Cancelled(Exception):  # noqa: N818 - control flow, not an error
    """Somebody cancelled the run."""


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
    lease = RunLease(redis, run_id, lease_s)

    async def is_over() -> bool:
        status = read_json(settings.runs_folder, run_id, STATUS)
        return status is not None and status.get("state") in OVER

    epoch = await lease.acquire(is_over)
    try:
        if epoch is None or await is_over():  # RQ may start a job again that had just ended
            return read_json(settings.runs_folder, run_id, STATUS) or {}
        try:
            run = _Run(run_id, epoch, settings, redis, lease, publish)
        except PermanentError as error:  # what is there of the run cannot be read
            change_status(settings.runs_folder, run_id, state=FAILED, error=str(error))
            raise
        return await run.to_its_end()
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
        self._needed: tuple[str, ...] = ()
        self._bus = BusClient(
            redis, keys.reply(tag_of(run_id, epoch)), queue_limit=settings.queue_limit
        )

    async def to_its_end(self) -> dict[str, Any]:
        with _log_into(self._store, self._settings.log_level):
            try:
                return await self._to_its_end()
            finally:
                await self._store.close()
                with contextlib.suppress(RedisError):
                    await self._bus.aclose()

    async def _to_its_end(self) -> dict[str, Any]:
        logger.info("run %s, owner number %d", self._run_id, self._epoch)
        try:
            if self._epoch > 1:  # the former owner is dead: what it queued is waste
                await self._bus.cancel(tag_of(self._run_id, self._epoch - 1))
            await self._status.tell(RUNNING)
            await self._work_under_guard()
        except _Cancelled:
            logger.info("run %s was cancelled", self._run_id)
            await self._bus.cancel(tag_of(self._run_id, self._epoch))
            return await self._status.tell(CANCELLED)
        except LeaseLostError:
            raise  # the run is somebody else's: not a word about it
        except InterruptedRunError as error:
            with contextlib.suppress(TimeoutError):  # Redis may be gone for good
                await asyncio.wait_for(self._give_back(str(error)), _LAST_WORDS_S)
            raise
        except PermanentError as error:
            logger.error("run %s failed: %s", self._run_id, error)
            await self._status.tell(FAILED, str(error))
            raise
        except Exception as error:
            logger.exception("run %s stopped", self._run_id)
            await self._status.tell(QUEUED, f"{type(error).__name__}: {error}")
            raise
        return await self._status.tell(FINISHED)

    async def _work_under_guard(self) -> None:
        """Work while the lease is ours, nobody cancels, and the models stay the same."""
        guards = [
            self._lease.keep(),
            self._wait_for_cancellation(),
            self._wait_for_a_signal(),
            self._watch_the_agents(),
            self._keep_publishing(),
        ]
        tasks = [asyncio.create_task(guard) for guard in guards]
        work = asyncio.create_task(self._work())
        try:
            await asyncio.wait({work, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for guard in tasks:
                if guard.done():
                    guard.result()
            await work
        finally:
            await stop_tasks((work, *tasks))

    # --- the work ---------------------------------------------------------------------------------

    async def _work(self) -> None:
        settings, request = self._settings, self._store.request
        knobs = knobs_module.from_mapping(request.knobs)
        self._progress.begin("gallery", 0)
        benchmark = await asyncio.to_thread(
            load_dataset, request.dataset, request.split, settings.data_root
        )
        queries = benchmark.queries[: request.limit]
        gallery = await asyncio.to_thread(
            write_gallery,
            settings.galleries_folder,
            benchmark.images,
            benchmark.searchable,
            lambda done, total: self._progress.update(done, total, 0),
        )
        self._progress.update(len(gallery), len(gallery), len(gallery.failures))

        self._progress.begin("agents", 1)
        needed = agents_needed(knobs)
        identities = await wait_for_agents(self._bus.live_agents, needed, self._status.say)
        self._status.say("")
        self._needed = needed
        self._progress.update(1, 1, 0)

        async with AgentsClient(self._bus, self._run_id, self._epoch, settings) as agents:
            database = await self._image_database(gallery, identities, agents)
            self._store.keep_manifest(
                describe_run(
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
                    {"key": database.key, "failed_rows": len(database.failures)},
                ),
                BINDING,
            )
            space = SearchSpace(
                gallery=gallery.key,
                database=database.key,
                row_of=gallery.row_of,
                caption_of=database.captions.__getitem__,
                exclude_reference=benchmark.protocol.exclude_reference,
                verify_chunk=settings.verify_chunk,
            )
            await self._answer(queries, lambda query: answer_query(query, agents.ask, space, knobs))
            logger.info(
                "%d requests asked again, %d replies ignored", agents.asked_again, agents.duplicates
            )

        self._progress.begin("evaluation", 1)
        states, image_id = self._store.states, gallery.image_ids.__getitem__
        rankings = await asyncio.to_thread(rank_run, states, knobs)
        evaluation = await asyncio.to_thread(
            evaluate_run, benchmark, queries, states, rankings, knobs, image_id
        )
        shown = table(f"{self._run_id}: {benchmark.name} {benchmark.split}", evaluation)
        lines = predictions(queries, states, rankings, knobs, image_id)
        await asyncio.to_thread(self._store.finish, lines, evaluation, shown)
        logger.info("metrics\n%s", shown)
        self._progress.update(1, 1, 0)
        self._progress.begin(
            "done", len(queries), len(queries), self._status.counts.get("failed", 0)
        )
        self._progress.end()

    async def _image_database(
        self, gallery: Gallery, identities: Mapping[str, Mapping[str, Any]], agents: AgentsClient
    ) -> ImageDatabase:
        self._progress.begin("image_database", len(gallery))
        writer = ImageDatabaseWriter(
            self._settings.image_db_folder,
            gallery,
            captioner_identity(dict(identities["imagination"])),
            dict(identities["similarity"]),
        )
        database = await build_image_database(gallery, agents.ask, writer, self._progress.update)
        failed = len({failure.row for failure in database.failures})
        self._progress.update(len(gallery), len(gallery), failed)
        for failure in database.failures:
            logger.warning("image %s, %s: %s", failure.image_id, failure.step, failure.reason)
        return database

    async def _answer(
        self, queries: tuple[Query, ...], answer: Callable[[Query], Awaitable[QueryState]]
    ) -> None:
        finished = self._store.finished_ids()
        waiting = [query for query in queries if query.query_id not in finished]
        self._status.counts = count(queries, self._store.states)
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
        self._status.counts = count(queries, self._store.states)

    async def _give_back(self, reason: str) -> None:
        """Let the next owner begin without this one's messages in its way."""
        await self._status.tell(QUEUED, reason)
        await self._bus.cancel(tag_of(self._run_id, self._epoch))

    # --- the guards -------------------------------------------------------------------------------

    async def _wait_for_cancellation(self) -> None:
        while True:
            with contextlib.suppress(RedisError):
                if await self._redis.get(cancel_key(self._run_id)) is not None:
                    raise _Cancelled
            await asyncio.sleep(_CANCEL_INTERVAL_S)

    async def _wait_for_a_signal(self) -> None:
        """SIGTERM, or the death of the worker process that renews the lease of our job."""
        parent = os.getppid()
        async with _terminated() as terminated:
            while os.getppid() == parent:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(terminated.wait(), _ORPHAN_INTERVAL_S)
                    break
        raise InterruptedRunError("the coordinator was asked to stop; the run goes on later")

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

    async def _keep_publishing(self) -> None:
        while True:
            await asyncio.sleep(_PUBLISH_INTERVAL_S)
            await self._status.publish(RUNNING)


@contextlib.asynccontextmanager
async def _terminated() -> AsyncIterator[asyncio.Event]:
    """An event that SIGTERM sets, where this loop may handle signals."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGTERM, event.set)
    except (RuntimeError, ValueError, NotImplementedError):  # not the main thread
        yield event
        return
    try:
        yield event
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


@contextlib.contextmanager
def _log_into(store: RunStore, level: str) -> Iterator[None]:
    """Whatever is logged meanwhile also goes into the run's log.txt."""
    handler = logging.FileHandler(store.folder / LOG, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.setLevel(level.upper())
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
