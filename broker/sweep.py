"""A parameter study from the recorded states of one run: metrics of every combination of knobs.

What combinations share is computed once: the products of a query with the gallery for all λ, the
lists for all fusions, the fused ranking for all k' and |Q|, the verification scores for all of
them. The figures are exactly those of one replay per combination.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from msgspec.structs import replace

from broker.coordinator import SearchSpace, rank_request, subset_rows
from broker.query_state import QueryState
from broker.stages import (
    COARSE,
    VERIFIED,
    Candidates,
    HeadAnswers,
    best_to_settle,
    coarse_ranking,
    looked_at,
    reranked,
    verifies,
)
from shared.contracts.skills import GalleryRanked, RankedList, RankGallery
from shared.datasets import Protocol, Query
from shared.dialogues import dialogue_before
from shared.errors import ConfigurationError, ItemError
from shared.fusion import Fused
from shared.gallery_index import EmbeddedGallery
from shared.knobs import Knobs
from shared.metrics import evaluate
from shared.ranking import Ranked, rank_galleries

Fusion = Literal["rrf", "sum", "interleave", "none"]


class Grid(NamedTuple):
    """The values to combine; an empty one stands for the recorded run's own.

    Attributes:
        fusions: "none" takes a single list, that of the text set which holds the others (aug).
        rrf_ks: matter to rrf alone; other fusions are not repeated for each.
    """

    fusions: tuple[Fusion, ...] = ()
    text_weights: tuple[float, ...] = ()
    num_questions: tuple[int, ...] = ()
    top_ks: tuple[int, ...] = ()
    rrf_ks: tuple[int, ...] = ()


class Outcome(NamedTuple):
    """One combination.

    Attributes:
        knobs: with which a replay, or a live run, gives these figures.
        metrics, intervals: stage ("coarse", "verified") -> metric -> fraction, or its bounds.
        coverage: as in `replay.Replayed`.
    """

    knobs: Knobs
    metrics: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, Mapping[str, Sequence[float]]]
    coverage: float


def combinations(recorded: Knobs, grid: Grid) -> list[Knobs]:
    """The knobs of every combination, by (λ, fusion, rrf_k, k', |Q|) in the order given.

    Raises: ConfigurationError: a value is out of bounds.
    """
    base = replace(recorded, stages=tuple(s for s in recorded.stages if s != "compare"))
    found: dict[Knobs, None] = {}
    for text_weight in grid.text_weights or (base.text_weight,):
        for fusion in grid.fusions or (base.fusion,):
            for rrf_k in (grid.rrf_ks or (base.rrf_k,)) if fusion == "rrf" else (base.rrf_k,):
                for top_k in grid.top_ks or (base.top_k,):
                    for questions in grid.num_questions or (base.num_questions,):
                        chosen = replace(
                            with_fusion(base, fusion),
                            text_weight=text_weight,
                            rrf_k=rrf_k,
                            top_k=top_k,
                            num_questions=questions,
                        )
                        found[chosen] = None
    return list(found)


def with_fusion(knobs: Knobs, fusion: Fusion) -> Knobs:
    """The same knobs with another fusion; "none" keeps one list, the fullest text set's first."""
    if fusion != "none" or len(knobs.fused_lists()) == 1:
        return replace(knobs, fusion=fusion)
    texts = knobs.effective_texts()
    fullest = "aug" if "aug" in texts else texts[-1]
    return replace(knobs, fusion=fusion, retrieve_texts=(fullest,), list_kinds=knobs.list_kinds[:1])


def sweep(
    states: Mapping[str, QueryState],
    queries: Sequence[Query],
    protocol: Protocol,
    space: SearchSpace,
    wanted: Sequence[Knobs],
    gallery: EmbeddedGallery,
    image_id: Callable[[int], str],
) -> Iterator[Outcome]:
    """The outcome of each of `combinations`, in their order.

    Raises: ConfigurationError: the states lack text embeddings.
    """
    recorded = _recorded_queries(states, queries, space, wanted, gallery)
    evaluated = _Evaluation(queries, protocol, image_id)
    for _, alike in itertools.groupby(wanted, _fused_by):
        of_fusion = list(alike)
        fused = {query_id: one.fused(of_fusion[0]) for query_id, one in recorded.items()}
        coarse = {query_id: one.rows() for query_id, one in fused.items()}
        by_stage = {COARSE: evaluated(coarse, of_fusion[0])}
        for _, same_head in itertools.groupby(of_fusion, lambda knobs: knobs.top_k):
            of_head = list(same_head)
            verified = {
                query_id: recorded[query_id].verified(both, of_head)
                for query_id, both in fused.items()
                if verifies(of_head[0])
            }
            coverage = 1.0
            for place, knobs in enumerate(of_head):
                if place == 0 or best_to_settle(knobs) is not None:  # else |Q| makes no difference
                    coverage = _coverage(
                        recorded[query_id].known(fused[query_id], knobs) for query_id in verified
                    )
                if verified:
                    of_count = {
                        query_id: by_count[place] for query_id, by_count in verified.items()
                    }
                    by_stage[VERIFIED] = evaluated(of_count, knobs)
                yield Outcome(
                    knobs,
                    {stage: result["metrics"] for stage, result in by_stage.items()},
                    {stage: result["intervals"] for stage, result in by_stage.items()},
                    coverage,
                )


def _fused_by(knobs: Knobs) -> Knobs:
    """What combinations with the same fused ranking have in common."""
    return replace(knobs, top_k=1, num_questions=1)


class _Rows(NamedTuple):
    """One query's ranking of the gallery, and of its subset (empty without one)."""

    gallery: Sequence[int]
    subset: Sequence[int]


class _Fused(NamedTuple):
    """One query's fused ranking of the gallery, and of its subset."""

    gallery: Fused
    subset: Fused

    def rows(self) -> _Rows:
        return _Rows([row for row, _ in self.gallery], [row for row, _ in self.subset])


class _RecordedQuery(NamedTuple):
    """One answered query: its lists at every λ, and how well candidates satisfy its propositions.

    Attributes:
        answers: None without propositions.
        lists, subset_lists: λ -> the lists of all fusions; no subset, no subset lists.
    """

    answers: HeadAnswers | None
    questions: int
    lists: Mapping[float, Sequence[RankedList]]
    subset_lists: Mapping[float, Sequence[RankedList]]

    def fused(self, knobs: Knobs) -> _Fused:
        weight = knobs.text_weight
        subset = coarse_ranking(self.subset_lists[weight], knobs) if self.subset_lists else []
        return _Fused(coarse_ranking(self.lists[weight], knobs), subset)

    def verified(self, fused: _Fused, wanted: Sequence[Knobs]) -> list[_Rows]:
        """The verified rankings for each of `wanted`, which differ in |Q| alone."""
        if self.answers is None:
            return [fused.rows()] * len(wanted)
        counts = [min(knobs.num_questions, self.questions) for knobs in wanted]
        whole = reranked(fused.gallery, wanted[0].top_k, self.answers, counts, wanted[0])
        part: list[list[int]] = [[]] * len(wanted)
        if fused.subset:
            part = reranked(fused.subset, None, self.answers, counts, wanted[0])
        return list(map(_Rows, whole, part))

    def known(self, fused: _Fused, knobs: Knobs) -> tuple[int, int]:
        """How many answers about candidates there are, and how many there ought to be."""
        if self.answers is None:
            return 0, 0
        candidates = Candidates(fused.gallery[: knobs.top_k], [row for row, _ in fused.subset])
        questions = min(knobs.num_questions, self.questions)
        by_image, by_caption = looked_at(candidates, self.answers, questions, knobs)
        sides = [(self.answers.visual, by_image), (self.answers.textual, by_caption)]
        used = {"both": sides, "visual": sides[:1], "textual": sides[1:]}[knobs.verify_mode]
        known = sum(int(side.holds(np.array(rows)).sum()) for side, rows in used)
        return known, sum(len(rows) for _, rows in used)


def _coverage(counts: Iterable[tuple[int, int]]) -> float:
    """The share of answers that there are among those there ought to be."""
    known, asked = (sum(column) for column in zip((0, 0), *counts, strict=True))
    return known / asked if asked else 1.0


class _Evaluation:
    """`evaluate` of rows instead of image ids, of so many as the protocol's metrics look at."""

    def __init__(
        self, queries: Sequence[Query], protocol: Protocol, image_id: Callable[[int], str]
    ) -> None:
        self._queries = queries
        self._protocol = protocol
        self._image_id = image_id
        ks = (*protocol.recall_ks, *protocol.map_ks, *protocol.hits_ks)
        self._depth = max(ks, default=0)

    def __call__(self, rankings: Mapping[str, _Rows], knobs: Knobs) -> dict[str, Any]:
        subsets = {query_id: rows.subset for query_id, rows in rankings.items() if rows.subset}
        return evaluate(
            {
                query_id: self._ids(rows.gallery[: self._depth])
                for query_id, rows in rankings.items()
            },
            self._queries,
            self._protocol,
            {query_id: self._ids(rows) for query_id, rows in subsets.items()} or None,
            seed=knobs.seed,
        )

    def _ids(self, rows: Sequence[int]) -> list[str]:
        return list(map(self._image_id, rows))


def _recorded_queries(
    states: Mapping[str, QueryState],
    queries: Sequence[Query],
    space: SearchSpace,
    wanted: Sequence[Knobs],
    gallery: EmbeddedGallery,
) -> dict[str, _RecordedQuery]:
    """The answered queries, ranked at every λ; the gallery is multiplied once for each."""
    by_id = {query.query_id: query for query in queries}
    lists = tuple({one.name: one for knobs in wanted for one in knobs.fused_lists()}.values())
    weights = tuple(dict.fromkeys(knobs.text_weight for knobs in wanted))
    knobs = wanted[0]
    recorded: dict[str, _RecordedQuery] = {}
    for query in queries:
        state = states.get(query.query_id)
        if state is None or state.status == "failed":
            continue
        if not state.text_embeddings:
            raise ConfigurationError(
                f"query {query.query_id} was recorded without its text embeddings, by an older"
                " version: run the benchmark anew to sweep over it"
            )
        dialogue = dialogue_before(query, by_id, lambda _: "")
        request = rank_request(query, state.text, state.image, space, knobs, dialogue)

        def ranked(
            rows: tuple[int, ...] | None, request: RankGallery = request, state: QueryState = state
        ) -> dict[float, Sequence[RankedList]]:
            asked = replace(request, lists=lists, subset_rows=rows, depth=knobs.rank_depth)
            answers = rank_galleries(
                [
                    Ranked(replace(asked, text_weight=weight), state.text_embeddings)
                    for weight in weights
                ],
                gallery,
            )
            return {weight: _lists(answer) for weight, answer in zip(weights, answers, strict=True)}

        subset = subset_rows(query, space)
        recorded[query.query_id] = _RecordedQuery(
            HeadAnswers.of(state, knobs) if state.propositions else None,
            len(state.propositions),
            ranked(None),
            ranked(subset) if subset else {},
        )
    return recorded


def _lists(answer: GalleryRanked | ItemError) -> Sequence[RankedList]:
    if isinstance(answer, ItemError):
        raise answer
    return answer.lists
