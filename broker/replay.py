"""Replay: the states of a run under other knobs, from its recorded answers alone. No model, no IO.

A replayed state is the one that a live run with these knobs would have recorded, bit for bit,
wherever the record holds every answer that run would have asked for (coverage 1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from broker.coordinator import SearchSpace, query_answerer
from broker.query_state import QueryState
from broker.recorded_answers import (
    NOT_ASKED,
    RecordedAnswers,
    ranked_again,
    ranked_as_recorded,
)
from broker.stages import best_to_settle
from shared.datasets import Query
from shared.errors import ConfigurationError, ItemError
from shared.gallery_index import EmbeddedGallery
from shared.knobs import Knobs, to_mapping

After = Literal["imagination", "ranking"]
"""The stage whose results are taken as recorded; everything after it is computed anew."""


class Replayed(NamedTuple):
    """What a replay gives.

    Attributes:
        states: by query id, in the order of the queries.
        coverage: the share of the candidates to be verified or compared that the record has an
            answer about; below 1 the others count as failed candidates and keep their places.
    """

    states: dict[str, QueryState]
    coverage: float


def replay(
    states: Mapping[str, QueryState],
    queries: Sequence[Query],
    space: SearchSpace,
    knobs: Knobs,
    gallery: EmbeddedGallery,
    after: After = "imagination",
) -> Replayed:
    """The states under `knobs`; a failed query stays failed, one without state has none.

    Args:
        gallery: the image database of the run. Not looked at after "ranking".
    Raises: ConfigurationError: a state does not hold what these knobs need; see `check_replayable`.
    """
    rank = ranked_again(gallery) if after == "imagination" else ranked_as_recorded
    recorded = RecordedAnswers(states, rank)
    answer = query_answerer(queries, states, recorded, space, knobs)

    async def answer_all() -> dict[str, QueryState]:
        replayed: dict[str, QueryState] = {}
        for query in queries:
            state = states.get(query.query_id)
            if state is None:
                continue
            if state.status == "failed":
                replayed[query.query_id] = state
                continue
            if after == "imagination" and not state.text_embeddings:
                raise ConfigurationError(
                    f"query {query.query_id} was recorded without its text embeddings, by an older"
                    " version: its lists cannot be ranked again, only fused again (after ranking)"
                )
            try:
                replayed[query.query_id] = await answer(query)
            except ItemError as error:
                raise ConfigurationError(f"query {query.query_id}: {error}") from error
        return replayed

    replayed = asyncio.run(answer_all())
    return Replayed(replayed, _coverage(replayed.values()))


def _coverage(states: Iterable[QueryState]) -> float:
    asked = unknown = 0
    for state in states:
        answers = (state.image_answers, state.caption_answers, state.comparisons)
        asked += sum(len(one.table()[0]) for one in answers if one is not None)
        unknown += sum(reason == NOT_ASKED for _, _, reason in state.item_failures)
    return (asked - unknown) / asked if asked else 1.0


def check_replayable(recorded: Knobs, wanted: Knobs, after: After = "imagination") -> None:
    """Refuse what no record of a run with these knobs can answer.

    Raises: ConfigurationError: names the knob, and what the recorded run has.
    """
    if after not in get_args(After):
        raise ConfigurationError(f"after is {after!r}: use {' or '.join(get_args(After))}")
    for name in ("llm", "mllm", "captioner", "evaluator", "clip"):
        if getattr(recorded, name, "") != getattr(wanted, name, ""):
            raise ConfigurationError(f"{name}: a replay asks no model; run a benchmark instead")
    missing = [stage for stage in wanted.stages if stage not in recorded.stages]
    if missing:
        raise ConfigurationError(
            f"stages is {list(wanted.stages)}: the recorded run has no stage {missing[0]!r}"
        )
    check_same_imagination(recorded, wanted)
    for name, stage in (("top_k", "verify"), ("compare_top", "compare")):
        most = getattr(recorded, name)
        if stage in wanted.stages and getattr(wanted, name) > most:
            raise ConfigurationError(
                f"{name} is {getattr(wanted, name)}: the recorded run has {most}"
            )
    check_verified_as_deeply(recorded, wanted)
    check_same_verification(recorded, wanted)
    if after == "ranking":
        check_same_lists(recorded, wanted)


def check_verified_as_deeply(recorded: Knobs, wanted: Knobs) -> None:
    """Raises: ConfigurationError: more of the ranking is to be certain than the record settles."""
    settled, best = best_to_settle(recorded), best_to_settle(wanted)
    if settled is None or "verify" not in wanted.stages:
        return
    if best is None or best > settled:
        raise ConfigurationError(
            f"verify_depth is {wanted.verify_depth}"
            + (
                f" and compare_top {wanted.compare_top}"
                if best not in (None, wanted.verify_depth)
                else ""
            )
            + f": the recorded run stopped verifying when its best {settled} were certain; use at"
            " most that, or begin a run with its record (restore) and let the agents answer more"
        )


def check_same_imagination(recorded: Knobs, wanted: Knobs) -> None:
    """Raises: ConfigurationError: other imaginations are wanted than those recorded."""
    for name in ("imagine_text", "imagine_image"):
        before, now = getattr(recorded, name), getattr(wanted, name)
        if now and not before:
            raise ConfigurationError(f"{name} is true: the recorded run has none of it")
        if before and not now and "verify" in wanted.stages:
            raise ConfigurationError(
                f"{name} is false: without it the propositions would have been others; leave the"
                " stage verify out, or run a benchmark"
            )


def changes(recorded: Knobs, wanted: Knobs) -> dict[str, tuple[Any, Any]]:
    """Knob -> (recorded, wanted), of those that differ."""
    before, now = to_mapping(recorded), to_mapping(wanted)
    return {name: (before[name], now[name]) for name in now if before[name] != now[name]}


def check_same_lists(recorded: Knobs, wanted: Knobs) -> None:
    """Raises: ConfigurationError: a list is wanted that was not recorded as it would be now."""
    for name in ("text_weight", "exclude_reference"):
        if getattr(recorded, name) != getattr(wanted, name):
            raise ConfigurationError(
                f"{name} is {getattr(wanted, name)!r}: after ranking it stays as recorded,"
                f" {getattr(recorded, name)!r}; replay after imagination to change it"
            )
    if wanted.rank_depth > recorded.rank_depth:
        raise ConfigurationError(
            f"rank_depth is {wanted.rank_depth}: the recorded lists hold {recorded.rank_depth} rows"
        )
    known = {ranked.name for ranked in recorded.requested_lists()}
    unknown = [ranked.name for ranked in wanted.requested_lists() if ranked.name not in known]
    if unknown:
        raise ConfigurationError(
            f"the list {unknown[0]!r} was not recorded: replay after imagination to rank by it"
        )


def check_same_verification(recorded: Knobs, wanted: Knobs) -> None:
    """Raises: ConfigurationError: more is to be verified by than what was recorded."""
    if "verify" not in wanted.stages:
        return
    if "verify" not in recorded.stages:
        raise ConfigurationError("the recorded run has no stage 'verify'")
    if wanted.num_questions > recorded.num_questions:
        raise ConfigurationError(
            f"num_questions is {wanted.num_questions}: the recorded run has"
            f" {recorded.num_questions}"
        )
    if recorded.verify_mode not in ("both", wanted.verify_mode):
        raise ConfigurationError(
            f"verify_mode is {wanted.verify_mode!r}: the recorded run has {recorded.verify_mode!r}"
        )
