"""What verifying 100 candidates costs an engine: one request a pair, and the ways to ask for less.

`make bench-verification` runs it through real vLLM on this machine's CPU, with a tiny InternVL of
random weights whose images take 256 tokens a tile, as InternVL3's do, and photos of 640 x 480
pixels. All rows but the first are this project's own path: coordinator's verification, question
agent, vLLM backend, answer cache. Tokens and requests are the engine's counts, and do not depend on
the machine; the seconds are those of a tiny model and do.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from msgspec.structs import replace
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from agents.backends.answer_cache import DiskAnswers
from agents.backends.cached_model import CachedModel
from agents.backends.contract import ImageFile, LanguageModel, Prompt
from agents.backends.images import read_image
from agents.backends.vllm import VllmModel
from agents.backends.vllm_requests import engine_prompt
from agents.prompting import PromptSet, load_prompts
from agents.question.skills import QuestionAgent
from agents.skill_prompts import verify_caption_prompt, verify_image_prompt
from agents.stores import Galleries
from broker.query_state import QueryState
from broker.stages import VERIFIED, coarse_ranking, rankings_by_stage
from broker.verification import Side, verify
from shared.contracts.messages import RequestMessage
from shared.contracts.skills import (
    Answers,
    CandidatesVerified,
    ItemFailure,
    VerifyCaptions,
    VerifyImages,
)
from shared.cost_model import GPUS, MODELS, Words, Workload, costs
from shared.knobs import Knobs
from shared.urgency import Urgency
from tests.benchmarks import verification_report
from tests.benchmarks.verification_report import Row
from tests.benchmarks.verification_world import FULL, QUESTIONS, TOP_K, Captions, World, make_world
from tests.unit.agents.tiny_checkpoints import write_vision_checkpoint
from tests.with_vllm.engines import on_cpu

BEST = 10
TILE_TOKENS = MODELS["InternVL3-8B"].tile_tokens
BLOCK = 32
"""Tokens of a block of vLLM's prefix cache on a CPU: prefixes are shared in whole blocks."""
DEFAULT_TILES = 12
"""What InternVL3's own processor cuts a photo into at most; a thumbnail comes on top."""
ANSWER_TOKENS = 16
"""What a free-text "yes, because" is cut off at."""
EARLY = replace(FULL, verify_depth=BEST)
AT_ONCE = 64
"""Naive requests in the engine at a time."""


# --- this project's way ---------------------------------------------------------------------------


class Verifier:
    """Coordinator's verification and question agent in one process, around one model."""

    def __init__(self, world: World, model: LanguageModel, folder: Path) -> None:
        roles = ("proposer", "evaluator_image", "evaluator_caption", "comparer")
        self.looked_at: Counter[str] = Counter()
        self._world = world
        self._agent = QuestionAgent(
            dict.fromkeys(roles, model),
            load_prompts("standard"),
            Galleries(folder / "galleries"),
            Captions(world.captions),
        )

    def __call__(self, queries: Sequence[QueryState], knobs: Knobs) -> list[list[int]]:
        """The best of each query."""
        return [
            list(
                rankings_by_stage(asyncio.run(self._verified(query, knobs)), knobs)[VERIFIED][:BEST]
            )
            for query in queries
        ]

    async def _verified(self, query: QueryState, knobs: Knobs) -> QueryState:
        questions = tuple(one.question for one in query.propositions)

        async def ask_about(
            side: Side, part: str, rows: tuple[int, ...]
        ) -> Sequence[Answers | ItemFailure]:
            self.looked_at[side] += len(rows)
            message = RequestMessage(
                message_id=f"{query.query_id}/{side}/{part}",
                job_id="bench",
                query_id=query.query_id,
                reply_to="xr:reply:bench",
                body=VerifyImages(self._world.gallery, rows, questions)
                if side == "image"
                else VerifyCaptions("captions", rows, questions),
            )
            (answer,) = await asyncio.to_thread(self._agent.answer, [message])
            if not isinstance(answer, CandidatesVerified):
                raise RuntimeError(f"no answer: {answer}")
            failed = [one.reason for one in answer.results if isinstance(one, ItemFailure)]
            if failed:
                raise RuntimeError(f"a candidate failed: {failed[0]}")
            return answer.results

        return await verify(query, knobs, ask_about, 25)


# --- one request a pair ---------------------------------------------------------------------------


def ask_naively(model: VllmModel, world: World, query: QueryState, rows: Sequence[int]) -> None:
    """Each question about each candidate on its own: question first, default tiles, free text."""
    sampling = SamplingParams(
        temperature=0, max_tokens=ANSWER_TOKENS, output_kind=RequestOutputKind.FINAL_ONLY
    )
    words = "{} Answer yes or no, and say why."
    prompts, images = [], []
    for row in rows:
        for one in query.propositions:
            question = words.format(one.question)
            prompts += [f"{question}\n<IMG_CONTEXT>\n", f"{question}\n{world.captions[row]}"]
            images += [(world.images[row],), ()]
    tokenizer = model._prompts._tokenizer
    turns = [f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n" for prompt in prompts]
    ids = tokenizer(turns, add_special_tokens=False)["input_ids"]

    async def ask_all() -> None:
        budget = asyncio.Semaphore(AT_ONCE)

        async def one(token_ids: list[int], seen: tuple[ImageFile, ...]) -> None:
            async with budget:
                pixels = [await asyncio.to_thread(read_image, image) for image in seen]
                asked = engine_prompt(token_ids, [image.sha256 for image in seen], pixels)
                await model._forward(asked, sampling, Urgency.BENCHMARK)

        await asyncio.gather(*map(one, ids, images))

    model._loop.run(ask_all())


# --- the rows -------------------------------------------------------------------------------------


@contextmanager
def engine(checkpoint: Path, **options: Any) -> Iterator[VllmModel]:
    """A fresh engine, warmed up by a request about nothing in particular."""
    model = on_cpu(checkpoint, context_length=4096, **options)
    try:
        yield model
    finally:
        model.close()


def measured(
    name: str, model: VllmModel, queries: float, looked_at: Counter[str], work: Callable[[], Any]
) -> tuple[Row, Any]:
    """What `work` about so many queries has cost, per query."""
    before, looked = Counter(model.counters), Counter(looked_at)
    start_s = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start_s
    print(f"{name}: {seconds:.1f} s", file=sys.stderr, flush=True)
    spent, seen = Counter(model.counters), Counter(looked_at)
    spent.subtract(before)
    seen.subtract(looked)
    return Row(
        name,
        requests=spent["requests"] / queries,
        prefilled=spent["prefilled_tokens"] / queries,
        decoded=spent["decoded_tokens"] / queries,
        seconds=seconds / queries,
        images=seen["image"] / queries,
        captions=seen["caption"] / queries,
    ), result


def run(queries: int, naive_candidates: int, folder: Path) -> list[Row]:
    prompts = load_prompts("standard")
    world = make_world(folder, queries)
    checkpoint = write_vision_checkpoint(
        folder / "checkpoint", tile_px=448, patch_px=14, context_length=4096,
        texts=[one.text for one in prompts.templates.values()] + world.captions + world.questions(),
    )  # fmt: skip
    rows: list[Row] = []
    with engine(checkpoint, max_tiles=DEFAULT_TILES) as model:
        query = world.queries[0]
        candidates = [row for row, _ in coarse_ranking(query.lists, FULL)[:naive_candidates]]
        share, looked_at = len(candidates) / TOP_K, Counter[str]()

        def naively() -> None:
            looked_at.update(image=len(candidates), caption=len(candidates))
            ask_naively(model, world, query, candidates)

        rows.append(measured("one request a pair, 13 tiles", model, share, looked_at, naively)[0])
    best: dict[str, list[list[int]]] = {}
    with engine(checkpoint) as model:
        words = {
            asked[0].query_id: Lengths.of(model, prompts, world, asked)
            for asked in (world.queries, world.later)
        }
        ours = Verifier(world, CachedModel(model, DiskAnswers(folder / "answers")), folder)
        for name, asked, known in (
            ("shared prefix, new images", world.queries, 0.0),
            ("shared prefix, known images", world.later, 1.0),
            ("asked before: cached answers", world.queries, None),
        ):
            work = partial(ours, asked, FULL)
            row, found = measured(name, model, queries, ours.looked_at, work)
            planned = None if known is None else words[asked[0].query_id].predicted(row, known)
            first = best.setdefault(asked[0].query_id, found)
            same = None if found is first else found == first
            rows.append(row._replace(predicted=planned, same_best=same))
    with engine(checkpoint) as model:
        ours = Verifier(world, model, folder)
        for name, asked, known in (
            (f"early stop for the best {BEST}, new images", world.queries, 0.0),
            (f"early stop for the best {BEST}, known images", world.later, 1.0),
        ):
            if known:  # early stop has looked at a few of them only
                ours(world.queries, FULL)
            work = partial(ours, asked, EARLY)
            row, found = measured(name, model, queries, ours.looked_at, work)
            rows.append(
                row._replace(
                    predicted=words[asked[0].query_id].predicted(row, known),
                    same_best=found == best[asked[0].query_id],
                )
            )
    return rows


class Lengths(NamedTuple):
    """How long the words of the prompts are where whole blocks of them are shared, in tokens."""

    images: Words
    captions: Words

    @classmethod
    def of(
        cls, model: VllmModel, prompts: PromptSet, world: World, asked: Sequence[QueryState]
    ) -> Lengths:
        questions = [one.question for query in asked for one in query.propositions]
        looking = [verify_image_prompt(prompts, world.images[0], q) for q in questions]
        # Between its two marks an image becomes as many tokens as a tile has.
        seen = [len(ids) + TILE_TOKENS + 1 for ids in _ids(model, looking)]
        prefix = _blocks(_common(_ids(model, looking)) + TILE_TOKENS + 1)
        images = Words(
            instruction=round(prefix - TILE_TOKENS), question=round(np.mean(seen) - prefix)
        )
        read, shared = [], []
        for text in world.captions[:40]:
            about = _ids(model, [verify_caption_prompt(prompts, q, text) for q in questions])
            shared.append(_blocks(_common(about)))
            read.append(np.mean([len(ids) for ids in about]) - shared[-1])
        first = _ids(
            model, [verify_caption_prompt(prompts, questions[0], c) for c in world.captions[:40]]
        )
        known = _blocks(_common(first))  # the instruction, once for all captions
        captions = Words(
            instruction=0, caption=round(np.mean(shared) - known), question=round(np.mean(read))
        )
        return cls(images, captions)

    def predicted(self, row: Row, known: float) -> float:
        """Tokens a query as `xr plan` computes them, of as many candidates as were looked at."""
        parts = 0.0
        for words, looked_at, part in (
            (self.images, row.images, "verify images"),
            (self.captions, row.captions, "verify captions"),
        ):
            work = Workload(
                1, candidates=TOP_K, questions=QUESTIONS,
                verified_share=looked_at / TOP_K, resident_share=known,
            )  # fmt: skip
            parts += costs(work, MODELS["InternVL3-8B"], GPUS["H200"], words)[part].prefilled
        return parts


def _ids(model: VllmModel, asked: Sequence[Prompt]) -> list[list[int]]:
    return model._prompts.token_ids(
        asked, [[model._image_token or ""] * len(prompt.images) for prompt in asked]
    )


def _common(prompts: Sequence[list[int]]) -> int:
    """How many tokens all of them begin with."""
    return next(n for n, ids in enumerate(zip(*prompts, strict=False)) if len(set(ids)) > 1)


def _blocks(tokens: int) -> int:
    return tokens // BLOCK * BLOCK


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=4)
    parser.add_argument("--naive-candidates", type=int, default=10)
    parser.add_argument("--page", type=Path, help="write the table into this page, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = run(options.queries, options.naive_candidates, Path(folder))
    text = verification_report.text(rows, options.queries, options.naive_candidates, TOP_K)
    print(text)
    if options.page:
        verification_report.write_into(options.page, text)
    met = all(reached for _, reached in verification_report.targets(rows, TOP_K))
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
