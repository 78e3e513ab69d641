"""A chat model on PyTorch: batches of fixed shapes, constrained choice, greedy decoding.

Reproducibility. The same request gives the same bytes whatever else is in its batch, however many
processes share the work and in whatever order requests come. To that end every forward pass has a
shape that depends on the request alone: its length is padded on the left to a multiple of 16 of its
own, and the batch always has `rows` rows, copies filling up the last one (see `fixed_shapes`). The
number of threads is part of the arithmetic too: all processes of a run should have the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from agents.backends.chat_prompts import ChatPrompts
from agents.backends.contract import ChoiceRequest, GenerationRequest, Prompt
from agents.backends.fixed_shapes import batches_by_length
from agents.backends.grammar import JsonGrammars
from agents.backends.vision_features import VisionFeatures
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
    """A `LanguageModel` on PyTorch. Not thread-safe."""

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
        self._choice_ids: dict[tuple[str, ...], list[int]] = {}
        self._vision: VisionFeatures | None = None
        image_token = None
        if processor is not None:
            image_token = str(processor.image_token)
            self._image_id = int(tokenizer.convert_tokens_to_ids(image_token))
            self._vision = VisionFeatures(model, processor, rows, max_tiles, cache_mb * MEGABYTE)
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
        encoded = self._encode([request.prompt for request in requests], [1] * len(requests))
        answers: list[tuple[float, ...] | ItemError] = [
            item if isinstance(item, ItemError) else ItemError("not answered") for item in encoded
        ]
        for places, rows, length in self._batches(encoded):
            inputs = self._inputs(rows, length)
            logits = self._model(
                **inputs.model_inputs,
                attention_mask=inputs.mask,
                position_ids=inputs.positions,
                use_cache=False,
                logits_to_keep=1,
            ).logits[:, -1]
            choice_ids = [self._first_tokens(requests[place].choices) for place in places]
            # One copy from the device for the whole batch, of the few columns that matter.
            columns = sorted({token for ids in choice_ids for token in ids})
            compared = logits[: len(places), columns].float().tolist()
            for place, ids, row in zip(places, choice_ids, compared, strict=True):
                answers[place] = _softmax([row[columns.index(token)] for token in ids])
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
                feature = features[image.sha256]
                if isinstance(feature, ItemError):
                    problems[place] = feature
        images_of = [
            tuple(f for i in prompt.images if isinstance(f := features[i.sha256], torch.Tensor))
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

    def _features(self, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor | ItemError]:
        images = [image for prompt in prompts for image in prompt.images]
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
            embeddings[input_ids == self._image_id] = torch.cat(features).to(embeddings.dtype)
        return _Inputs({"inputs_embeds": embeddings}, attention, positions)

    def _decode(
        self, requests: Sequence[GenerationRequest], items: Sequence[_Encoded], length: int
    ) -> list[list[int]]:
        """Token ids of each answer, without the end token."""
        inputs = self._inputs(items, length)
        longest = max(request.max_tokens for request in requests)
        later = torch.ones(self._rows, longest, dtype=inputs.mask.dtype, device=inputs.mask.device)
        mask = torch.cat([inputs.mask, later], dim=1)
        last_positions = inputs.positions[:, -1:]
        matchers = [self._matcher(request) for request in requests]
        written: list[list[int]] = [[] for _ in requests]
        active = set(range(len(requests)))
        output = self._model(
            **inputs.model_inputs,
            attention_mask=inputs.mask,
            position_ids=inputs.positions,
            use_cache=True,
            logits_to_keep=1,
        )
        for step in range(1, longest + 1):
            logits = output.logits[: len(requests), -1].float()
            if any(matcher is not None for matcher in matchers):
                self._json_grammars().mask(logits, matchers)
            tokens = logits.argmax(-1).tolist()
            for row in sorted(active):
                if self._row_ends(tokens[row], written[row], matchers[row], requests[row]):
                    active.discard(row)
                    matchers[row] = None
            if not active:
                break
            following = tokens + [self._pad_id] * (self._rows - len(tokens))
            output = self._model(
                input_ids=torch.tensor(following, device=mask.device)[:, None],
                attention_mask=mask[:, : length + step],
                position_ids=last_positions + step,
                past_key_values=output.past_key_values,
                use_cache=True,
                logits_to_keep=1,
            )
        return written

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

    def _first_tokens(self, choices: tuple[str, ...]) -> list[int]:
        if choices not in self._choice_ids:
            self._choice_ids[choices] = self._prompts.first_tokens(choices)
        return self._choice_ids[choices]


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Ids that end an answer: the tokenizer's and those of the generation configuration."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    ids = [int(token) for token in (tokenizer.eos_token_id, *listed) if token is not None]
    if not ids:
        raise ConfigurationError("the checkpoint names no end token; set eos_token")
    return list(dict.fromkeys(ids))


def _softmax(logits: Sequence[float]) -> tuple[float, ...]:
    highest = max(logits)
    weights = [math.exp(logit - highest) for logit in logits]
    total = sum(weights)
    return tuple(weight / total for weight in weights)
