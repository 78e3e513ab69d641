"""vLLM: one continuous-batching engine per process, asked by many threads at once.

The engine runs in an event loop of its own. `choose` and `generate` may be called from any thread;
their requests join whatever the engine is working on, so that no batch waits for another.

What makes verification cheap here: an image's tokens and the constant words after it are computed
once and shared by all questions about it, also of later queries (prefix caching); an image whose
features the engine still has is named by its content hash and not sent, nor even decoded; a yes/no
answer is one forward pass, its two log-probabilities asked for by token.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import transformers
from PIL import Image
from vllm import AsyncEngineArgs, SamplingParams
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineGenerateError

from agents.backends.adaptive_model import AdaptiveModel
from agents.backends.chat_prompts import ChatPrompts
from agents.backends.contract import ChoiceRequest, GenerationRequest, ImageFile, Prompt
from agents.backends.engine_loop import EngineLoop
from agents.backends.grammar import json_grammar
from agents.backends.identity import folder_digest, package_versions
from agents.backends.image_reader import ImageReader
from agents.backends.known_images import KnownImages
from agents.backends.request_budget import RequestBudget
from agents.backends.vllm_prompts import RenderedPrompts
from agents.backends.vllm_requests import (
    ImageDroppedError,
    finished,
    image_arguments,
    one_of,
    probabilities,
)
from agents.spending import spend
from shared.errors import ConfigurationError, ItemError
from shared.tasks import stop_tasks
from shared.urgency import Urgency, urgency

AnswerTokens = list[tuple[int, ...]]

_REFUSALS = (ValueError, EngineGenerateError)
_LOOK_INTERVAL_S = 1.0
_DECODERS = 4
"""Threads that decode images; Pillow lets other threads run meanwhile."""


class VllmModel:
    """A `LanguageModel` on vLLM; thread-safe.

    Answers may differ in the last digits with what else is in the engine's batch: unlike the
    transformers backend this one promises the same bytes only where vLLM does (its batch-invariant
    mode, on GPUs that have it).

    Attributes:
        concurrency: how many messages may be answered at once.
        counters: requests, prefilled_tokens, cached_tokens, decoded_tokens, images_decoded,
            images_named; since the start.
    """

    def __init__(
        self,
        engine: AsyncLLM,
        loop: EngineLoop,
        prompts: ChatPrompts,
        image_token: str | None,
        *,
        identity: dict[str, str],
        in_flight: int,
        concurrency: int,
        context_length: int,
        images_known: int,
        processor: Any | None,
    ) -> None:
        """Prefer `load`. The engine belongs to `loop`; `processor` is the one of images."""
        self.concurrency = concurrency
        self.counters: Counter[str] = Counter()
        self._engine = engine
        self._loop = loop
        self._prompts = prompts
        self._image_token = image_token
        self._identity = identity
        self._context_length = context_length
        self._images = KnownImages(images_known)
        self._max_tiles = int(identity["max_tiles"])
        self._reader = None if processor is None else ImageReader(processor, self.counters)
        self._budget = RequestBudget(in_flight)
        self._rendered = RenderedPrompts(engine, prompts.image_id, self._max_tiles, images_known)
        self._numbers = count()
        self._decoders = ThreadPoolExecutor(_DECODERS, "images")
        self._decoding: dict[tuple[str, int], asyncio.Future[Image.Image]] = {}
        self._choices: dict[tuple[tuple[str, ...], int], tuple[AnswerTokens, SamplingParams]] = {}
        self._grammars: dict[str, str] = {}

    def describe(self) -> dict[str, str]:
        """Backend, checkpoint, revision, digest, dtype, tiles and versions."""
        return dict(self._identity)

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[tuple[float, ...] | ItemError]:
        """One forward pass for each choice; a softmax over the tokens the choices begin with."""
        choices = [self._choice(request) for request in requests]
        return self._ask(
            [request.prompt for request in requests],
            [sampling for _, sampling in choices],
            lambda place, output: probabilities(output, choices[place][0]),
        )

    def generate(self, requests: Sequence[GenerationRequest]) -> list[str | ItemError]:
        """Greedy decoding, held to the JSON schema where there is one."""
        return self._ask(
            [request.prompt for request in requests],
            [self._greedy(request) for request in requests],
            lambda place, output: str(output.text).strip(),
        )

    def close(self) -> None:
        """Stop the engine; what is under way fails."""
        self._loop.run(_shut_down(self._engine))
        self._loop.close()
        self._decoders.shutdown(wait=False)

    # --- from a worker's thread -------------------------------------------------------------------

    def _ask(
        self, prompts: Sequence[Prompt], sampling: Sequence[SamplingParams], read: Any
    ) -> list[Any]:
        problems = [self._problem(prompt) for prompt in prompts]
        usable = [place for place, problem in enumerate(problems) if problem is None]
        token_ids = self._prompts.token_ids(
            [prompts[place] for place in usable],
            [[self._image_token or ""] * len(prompts[place].images) for place in usable],
        )
        answers: list[Any] = list(problems)
        asked: list[Coroutine[Any, Any, Any]] = []
        answered: list[int] = []
        urgent = urgency()
        for place, ids in zip(usable, token_ids, strict=True):
            limit = self._context_length - int(sampling[place].max_tokens or 0)
            if len(ids) > limit:
                answers[place] = ItemError(
                    f"a prompt of {len(ids)} tokens and its answer exceed the model's context of "
                    f"{self._context_length}"
                )
                continue
            answered.append(place)
            asked.append(self._one(ids, prompts[place], sampling[place], urgent))
        outputs = self._loop.run(self._while_it_lives(_all(asked)))
        for place, output in zip(answered, outputs, strict=True):
            answers[place] = output if isinstance(output, ItemError) else read(place, output)
        return answers

    def _problem(self, prompt: Prompt) -> ItemError | None:
        try:
            self._prompts.check(prompt)
        except ItemError as error:
            return error
        return None

    def _greedy(self, request: GenerationRequest) -> SamplingParams:
        schema = request.json_schema
        return SamplingParams(
            temperature=0,
            max_tokens=request.max_tokens,
            structured_outputs=None
            if schema is None
            else StructuredOutputsParams(grammar=self._grammar(schema)),
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,
        )

    def _grammar(self, schema: Mapping[str, Any]) -> str:
        """The schema as a grammar of ours: vLLM's own allows either any white space or none."""
        text = json.dumps(schema)
        if text not in self._grammars:
            self._grammars[text] = json_grammar(text)
        return self._grammars[text]

    def _choice(self, request: ChoiceRequest) -> tuple[AnswerTokens, SamplingParams]:
        key = (request.choices, request.count)
        if key not in self._choices:
            token_ids = self._prompts.answer_tokens(*key)
            self._choices[key] = token_ids, one_of(token_ids, request.count)
        return self._choices[key]

    # --- in the engine's event loop ---------------------------------------------------------------

    async def _while_it_lives(self, work: Coroutine[Any, Any, list[Any]]) -> list[Any]:
        """The result of `work`. vLLM leaves those waiting who asked when its process was killed.

        Raises: EngineDeadError: it was, as vLLM says of any later request.
        """
        task = asyncio.ensure_future(work)
        while not task.done():
            await asyncio.wait([task], timeout=_LOOK_INTERVAL_S)
            if not task.done() and self._engine.errored:
                await stop_tasks([task])
                raise self._engine.dead_error
        return task.result()

    async def _one(
        self, token_ids: list[int], prompt: Prompt, sampling: SamplingParams, urgent: Urgency
    ) -> Any:
        """The engine's output for one prompt, or why there is none."""
        tiles = prompt.tiles or self._max_tiles
        if urgent is Urgency.INTERACTIVE:
            with self._budget.for_a_person():
                return await self._with_images(token_ids, prompt.images, tiles, sampling, urgent)
        async with self._budget.in_background():
            return await self._with_images(token_ids, prompt.images, tiles, sampling, urgent)

    async def _with_images(
        self,
        token_ids: list[int],
        images: Sequence[ImageFile],
        tiles: int,
        sampling: SamplingParams,
        urgent: Urgency,
    ) -> Any:
        names = [f"{image.sha256}-{tiles}" for image in images]

        async def asked(pixels: Sequence[Image.Image | None]) -> Any:
            prompt = await self._rendered.rendered(token_ids, names, pixels, tiles)
            return await self._forward(prompt, sampling, urgent)

        try:
            if names and all(self._images.known(name) for name in names):
                try:
                    output = await asked([None] * len(names))
                    spend(self.counters, images_named=len(names))
                    return output
                except _REFUSALS:  # the engine has dropped one of them meanwhile
                    self._images.forget(names)
            pixels = [await asyncio.shield(self._decoding_of(image, tiles)) for image in images]
            try:
                output = await asked(pixels)
            except ImageDroppedError:  # not sent, as vLLM took it to be there; it knows better now
                output = await asked(pixels)
            self._images.learn(names)
            return output
        except ItemError as error:
            return error
        except _REFUSALS as error:
            reason = error.__cause__ or error
            return ItemError(f"the engine refused the request: {reason or type(reason).__name__}")

    def _decoding_of(self, image: ImageFile, tiles: int) -> asyncio.Future[Image.Image]:
        """All questions about an image that come at once share one decoding of it."""
        key = (image.sha256, tiles)
        decoding = self._decoding.get(key)
        if decoding is None:
            assert self._reader is not None
            loop, context = asyncio.get_running_loop(), contextvars.copy_context()
            decoding = loop.run_in_executor(
                self._decoders, context.run, self._reader.read, image, tiles
            )
            decoding.add_done_callback(lambda _: self._decoding.pop(key, None))
            self._decoding[key] = decoding
        return decoding

    async def _forward(
        self, prompt: dict[str, Any], sampling: SamplingParams, urgent: Urgency
    ) -> Any:
        final: Any = None
        stream = self._engine.generate(
            prompt, sampling, str(next(self._numbers)), priority=int(urgent)
        )
        async for output in stream:
            final = output
        answer = finished(final)
        cached = int(final.num_cached_tokens or 0)
        spend(
            self.counters,
            requests=1,
            cached_tokens=cached,
            prefilled_tokens=len(final.prompt_token_ids) - cached,
            decoded_tokens=len(answer.token_ids),
        )
        return answer


def load(
    checkpoint: str,
    revision: str = "",
    *,
    dtype: str = "auto",
    max_tiles: int = 1,
    adaptive_tiles: int = 0,
    undecided: Sequence[float] = (0.2, 0.8),
    context_length: int = 8192,
    in_flight: int = 512,
    concurrency: int = 16,
    tensor_parallel: int = 1,
    gpu_memory: float = 0.9,
    images_known: int = 4096,
    engine: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> VllmModel | AdaptiveModel:
    """A chat model by hub name or folder, served by vLLM in this process.

    Args:
        dtype: "auto" is the checkpoint's own.
        max_tiles: tiles an image is cut into at most, for models that cut tiles.
        adaptive_tiles: where P(yes) of a question about images lies within `undecided`, it is asked
            again with so many tiles; 0 = never.
        context_length: tokens of prompt and answer together; no more than the model's own.
        in_flight: background requests in the engine at once; a person's come on top.
        concurrency: messages answered at once.
        tensor_parallel: GPUs that share the model.
        gpu_memory: share of a GPU's memory the engine may take.
        images_known: images whose features are taken to be still in the engine.
        engine: any other argument of vLLM's AsyncEngineArgs, by its own name.
    Raises: ConfigurationError: it can't be loaded.
    """
    source: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision:
        source["revision"] = revision
    try:
        config = transformers.AutoConfig.from_pretrained(checkpoint, **source)
        sees = getattr(config, "vision_config", None) is not None
        processor = transformers.AutoProcessor.from_pretrained(checkpoint, **source)
        tokenizer = processor.tokenizer if sees else processor
        longest = getattr(config.get_text_config(), "max_position_embeddings", context_length)
        arguments: dict[str, Any] = {
            "model": checkpoint,
            "dtype": dtype,
            "max_model_len": min(context_length, longest),
            "tensor_parallel_size": tensor_parallel,
            "gpu_memory_utilization": gpu_memory,
            # More than the budget, so that a person's request always finds a place.
            "max_num_seqs": in_flight + in_flight // 4,
            "scheduling_policy": "priority",
            "enable_prefix_caching": True,
            "enable_log_requests": False,
            "disable_log_stats": True,
            "structured_outputs_config": {"backend": "xgrammar"},
            **source,
            **(image_arguments(config, processor, max_tiles, adaptive_tiles) if sees else {}),
            **(engine or {}),
        }
        loop = EngineLoop("vllm")  # of no use, like the process, when the engine can't start
        started = loop.run(_start(arguments))
    except (OSError, ValueError, TypeError, ImportError, RuntimeError) as error:
        raise ConfigurationError(
            f"checkpoint {checkpoint!r} can't be served by vllm: {error}"
        ) from error
    image_token = str(processor.image_token) if sees else None
    folder = Path(checkpoint)
    identity = {
        "backend": "vllm",
        "checkpoint": folder.name if folder.is_dir() else checkpoint,
        "revision": str(getattr(config, "_commit_hash", None) or revision),
        "digest": folder_digest(folder) if folder.is_dir() else "",
        "dtype": dtype,
        "max_tiles": str(max_tiles if sees else 0),
        "versions": package_versions(("torch", "transformers", "vllm")),
    }
    model = VllmModel(
        started,
        loop,
        ChatPrompts(processor, tokenizer, image_token),
        image_token,
        identity=identity,
        in_flight=in_flight,
        concurrency=concurrency,
        context_length=arguments["max_model_len"],
        images_known=images_known,
        processor=processor.image_processor if sees else None,
    )
    return AdaptiveModel(model, adaptive_tiles, undecided) if adaptive_tiles else model


async def _start(arguments: Mapping[str, Any]) -> AsyncLLM:
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))


async def _shut_down(engine: AsyncLLM) -> None:
    engine.shutdown()


async def _all(asked: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    return list(await asyncio.gather(*asked))
