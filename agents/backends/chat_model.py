"""A chat model on PyTorch: batches of fixed shapes, constrained choice, greedy decoding.

Reproducibility. The same request gives the same bytes whatever else is in its batch, however many
processes share the work and in whatever order requests come. To that end every forward pass has a
shape that depends on the request alone: its length is padded on the left to a multiple of 16 of its
own, and the batch always has `rows` rows, copies filling up the last one (see `fixed_shapes`). The
number of threads is part of the arithmetic too: all processes of a run should have the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

from agents.backends.chat_prompts import ChatPrompts
from agents.backends.contract import ChoiceRequest, GenerationRequest, ImageFile, Prompt
from agents.backends.fixed_shapes import batches_by_length
from agents.backends.grammar import JsonGrammars
from agents.backends.vision_features import Seen, VisionFeatures
from agents.spending import spend
from shared.errors import ConfigurationError, ItemError

MEGABYTE = 1 << 20


@dataclass(frozen=True)
class _Encoded:
    """A prompt ready for the model: its token ids, and one (tokens, hidden) tensor per image."""

    token_ids: list[int]
    features: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class _Inputs:
    """One forward pass: `model_inputs` for the model; mask and positions are (rows, length)."""

    model_inputs: dict[str, torch.Tensor]
    mask: torch.Tensor
    positions: torch.Tensor


class ChatModel:
    """A `LanguageModel` on PyTorch. Not thread-safe.

    Attributes:
        counters: requests, prefilled_tokens, decoded_tokens, images_decoded, derivatives_read;
            since the start.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        processor: Any | None,
        *,
        rows: int,
        max_tiles: int = 1,
        cache_mb: int = 512,
        identity: dict[str, str] | None = None,
    ) -> None:
        """`processor` is None for a model that reads only text. Prefer `load`."""
        self._model = model
        self._tokenizer = tokenizer
        self._rows = rows
        self._identity = identity or {}
        text_config = model.config.get_text_config()
        self._context_length = int(getattr(text_config, "max_position_embeddings", 0) or 1 << 30)
        self._eos_ids = _end_tokens(model, tokenizer)
        self._pad_id = (
            self._eos_ids[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        )
        self._vocab_size = int(text_config.vocab_size)
        self._grammars: JsonGrammars | None = None
        self.counters: Counter[str] = Counter()
        self._choice_ids: dict[tuple[tuple[str, ...], int], list[tuple[int, ...]]] = {}
        self._vision: VisionFeatures | None = None
        image_token = None
        if processor is not None:
            image_token = str(processor.image_token)
            self._vision = VisionFeatures(
                model, processor, rows, max_tiles, cache_mb * MEGABYTE, self.counters
            )
        self._prompts = ChatPrompts(processor or tokenizer, tokenizer, image_token)

    def describe(self) -> dict[str, str]:
        """Backend, checkpoint, revision, digest, dtype, tiles and versions."""
        return dict(self._identity)

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[tuple[float, ...] | ItemError]:
        """One forward pass per batch; probabilities are the softmax over the choices' first tokens.

        Raises: ConfigurationError: two choices begin with the same token.
        """
        with torch.inference_mode():
            return self._choose(requests)

    def generate(self, requests: Sequence[GenerationRequest]) -> list[str | ItemError]:
        """Greedy decoding. A row that has ended idles until its batch has."""
        with torch.inference_mode():
            return self._generate(requests)

    def _choose(self, requests: Sequence[ChoiceRequest]) -> list[tuple[float, ...] | ItemError]:
        encoded = self._encode(
            [request.prompt for request in requests], [request.count for request in requests]
        )
        answers: list[tuple[float, ...] | ItemError] = [
            item if isinstance(item, ItemError) else ItemError("not answered") for item in encoded
        ]
        for places, rows, length in self._batches(encoded):
            asked = [requests[place] for place in places]
            for place, answer in zip(places, self._choices(asked, rows, length), strict=True):
                answers[place] = answer
                spend(self.counters, decoded_tokens=requests[place].count)
        return answers

    def _choices(
        self, requests: Sequence[ChoiceRequest], items: Sequence[_Encoded], length: int
    ) -> list[tuple[float, ...]]:
        """One forward pass per choice in a row; most requests want one."""
        ids_of = [self._answer_tokens(request) for request in requests]
        # One copy from the device for the whole batch, of the few columns that matter.
        columns = sorted({token for ids in ids_of for token in chain(*ids)})
        place_of = {token: place for place, token in enumerate(columns)}
        longest = max(request.count for request in requests)
        steps = self._steps(items, length, longest)
        logits = next(steps)
        answers: list[tuple[float, ...]] = [() for _ in requests]
        for step in range(longest):
            compared = logits[: len(requests), columns].float().tolist()
            chosen = []
            for row, (request, ids) in enumerate(zip(requests, ids_of, strict=True)):
                weights = [[compared[row][place_of[token]] for token in one] for one in ids]
                chosen.append(max(chain(*ids), key=lambda t, row=row: compared[row][place_of[t]]))  # type: ignore[misc]
                if step < request.count:
                    answers[row] += _softmax_of_groups(weights)
            if step + 1 < longest:
                logits = steps.send(chosen)
        return answers

    def _generate(self, requests: Sequence[GenerationRequest]) -> list[str | ItemError]:
        encoded = self._encode(
            [request.prompt for request in requests],
            [request.max_tokens for request in requests],
        )
        texts: list[str | ItemError] = [
            item if isinstance(item, ItemError) else ItemError("not answered") for item in encoded
        ]
        for places, rows, length in self._batches(encoded):
            written = self._decode([requests[place] for place in places], rows, length)
            for place, token_ids in zip(places, written, strict=True):
                text = self._tokenizer.decode(token_ids, skip_special_tokens=True)
                texts[place] = text.strip()
        return texts

    def _encode(
        self, prompts: Sequence[Prompt], new_tokens: Sequence[int]
    ) -> list[_Encoded | ItemError]:
        """Each prompt's ids and image features, or why it can't be asked."""
        problems = [self._problem(prompt) for prompt in prompts]
        usable = [prompt for prompt, problem in zip(prompts, problems, strict=True) if not problem]
        features = self._features(usable)
        for place, prompt in enumerate(prompts):
            for image in prompt.images if problems[place] is None else ():
                feature = features[self._seen(image, prompt)]
                if isinstance(feature, ItemError):
                    problems[place] = feature
        images_of = [
            tuple(
                f
                for i in prompt.images
                if isinstance(f := features[self._seen(i, prompt)], torch.Tensor)
            )
            if problem is None
            else ()
            for prompt, problem in zip(prompts, problems, strict=True)
        ]
        asked = [place for place, problem in enumerate(problems) if problem is None]
        token_ids = self._prompts.token_ids(
            [prompts[place] for place in asked],
            [self._placeholders(images_of[place]) for place in asked],
        )
        encoded: list[_Encoded | ItemError] = [problem or ItemError("") for problem in problems]
        for place, ids in zip(asked, token_ids, strict=True):
            if len(ids) + new_tokens[place] > self._context_length:
                encoded[place] = ItemError(
                    f"a prompt of {len(ids)} tokens and an answer of {new_tokens[place]} exceed "
                    f"the model's {self._context_length}"
                )
            else:
                encoded[place] = _Encoded(ids, images_of[place])
        return encoded

    def _problem(self, prompt: Prompt) -> ItemError | None:
        try:
            self._prompts.check(prompt)
        except ItemError as error:
            return error
        return None

    def _seen(self, image: ImageFile, prompt: Prompt) -> Seen:
        assert self._vision is not None
        return self._vision.seen(image, prompt.tiles)

    def _features(self, prompts: Sequence[Prompt]) -> dict[Seen, torch.Tensor | ItemError]:
        images = [(image, prompt.tiles) for prompt in prompts for image in prompt.images]
        return self._vision.of(images) if self._vision is not None and images else {}

    def _placeholders(self, features: Sequence[torch.Tensor]) -> list[str]:
        if self._vision is None:
            return []
        return [self._vision.placeholder(feature) for feature in features]

    def _batches(
        self, encoded: Sequence[_Encoded | ItemError]
    ) -> list[tuple[list[int], list[_Encoded], int]]:
        """(places in the request list, their prompts, padded length) of every forward pass."""
        places = [place for place, item in enumerate(encoded) if isinstance(item, _Encoded)]
        items = [item for item in encoded if isinstance(item, _Encoded)]
        lengths = [len(item.token_ids) for item in items]
        return [
            ([places[at] for at in batch], [items[at] for at in batch], length)
            for length, batch in batches_by_length(lengths, self._rows)
        ]

    def _inputs(self, items: Sequence[_Encoded], length: int) -> _Inputs:
        """Left-padded inputs of exactly `rows` rows; copies of the first fill up the batch."""
        filled = [*items, *[items[0]] * (self._rows - len(items))]
        ids, mask = [], []
        for item in filled:
            padding = length - len(item.token_ids)
            ids.append([self._pad_id] * padding + item.token_ids)
            mask.append([0] * padding + [1] * len(item.token_ids))
        device = self._model.device
        input_ids = torch.tensor(ids, device=device)
        attention = torch.tensor(mask, device=device)
        positions = (attention.cumsum(-1) - 1).clamp(min=0)
        if self._vision is None:
            return _Inputs({"input_ids": input_ids}, attention, positions)
        # Padding is never an image token's place: only real prompts hold placeholders.
        embeddings = self._model.get_input_embeddings()(input_ids)
        features = [feature for item in filled for feature in item.features]
        if features:
            places = input_ids == self._prompts.image_id
            embeddings[places] = torch.cat(features).to(embeddings.dtype)
        return _Inputs({"inputs_embeds": embeddings}, attention, positions)

    def _decode(
        self, requests: Sequence[GenerationRequest], items: Sequence[_Encoded], length: int
    ) -> list[list[int]]:
        """Token ids of each answer, without the end token."""
        longest = max(request.max_tokens for request in requests)
        matchers = [self._matcher(request) for request in requests]
        written: list[list[int]] = [[] for _ in requests]
        active = set(range(len(requests)))
        steps = self._steps(items, length, longest)
        logits = next(steps)
        while True:
            logits = logits[: len(requests)].float()
            if any(matcher is not None for matcher in matchers):
                self._json_grammars().mask(logits, matchers)
            tokens = logits.argmax(-1).tolist()
            for row in sorted(active):
                if self._row_ends(tokens[row], written[row], matchers[row], requests[row]):
                    active.discard(row)
                    matchers[row] = None
            if not active:
                break
            logits = steps.send(tokens)
        spend(self.counters, decoded_tokens=sum(map(len, written)))
        return written

    def _steps(
        self, items: Sequence[_Encoded], length: int, most: int
    ) -> Generator[torch.Tensor, list[int], None]:
        """Logits (rows, vocabulary) of the next token; send the tokens taken to get the next.

        Args:
            most: how often it may be asked.
        """
        spend(
            self.counters,
            requests=len(items),
            prefilled_tokens=sum(len(item.token_ids) for item in items),
        )
        inputs = self._inputs(items, length)
        output = self._model(
            **inputs.model_inputs,
            attention_mask=inputs.mask,
            position_ids=inputs.positions,
            use_cache=most > 1,
            logits_to_keep=1,
        )
        tokens = yield output.logits[:, -1]
        later = torch.ones(self._rows, most, dtype=inputs.mask.dtype, device=inputs.mask.device)
        mask = torch.cat([inputs.mask, later], dim=1)
        for step in range(1, most + 1):
            following = tokens + [self._pad_id] * (self._rows - len(tokens))
            output = self._model(
                input_ids=torch.tensor(following, device=mask.device)[:, None],
                attention_mask=mask[:, : length + step],
                position_ids=inputs.positions[:, -1:] + step,
                past_key_values=output.past_key_values,
                use_cache=True,
                logits_to_keep=1,
            )
            tokens = yield output.logits[:, -1]

    def _row_ends(
        self, token: int, written: list[int], matcher: Any | None, request: GenerationRequest
    ) -> bool:
        """Takes the token into the answer; true when that ends it."""
        if token in self._eos_ids:
            return True
        written.append(token)
        if matcher is not None:
            matcher.accept_token(token)
            if matcher.is_terminated():
                return True
        return len(written) >= request.max_tokens

    def _matcher(self, request: GenerationRequest) -> Any | None:
        if request.json_schema is None:
            return None
        return self._json_grammars().matcher(request.json_schema)

    def _json_grammars(self) -> JsonGrammars:
        if self._grammars is None:
            self._grammars = JsonGrammars(self._tokenizer, self._vocab_size, self._eos_ids)
        return self._grammars

    def _answer_tokens(self, request: ChoiceRequest) -> list[tuple[int, ...]]:
        key = (request.choices, request.count)
        if key not in self._choice_ids:
            self._choice_ids[key] = self._prompts.answer_tokens(*key)
        return self._choice_ids[key]


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Ids that end an answer: the tokenizer's and those of the generation configuration."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    ids = [int(token) for token in (tokenizer.eos_token_id, *listed) if token is not None]
    if not ids:
        raise ConfigurationError("the checkpoint names no end token; set eos_token")
    return list(dict.fromkeys(ids))


def _softmax_of_groups(groups: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The softmax over all logits, summed by group."""
    highest = max(chain(*groups))
    weights = [sum(math.exp(logit - highest) for logit in group) for group in groups]
    total = sum(weights)
    return tuple(weight / total for weight in weights)
