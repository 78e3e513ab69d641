"""A language model that asks its engine only what it has not answered before."""

from __future__ import annotations

import hashlib
import json
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from agents.backends.answer_cache import AnswerCache
from agents.backends.contract import ChoiceRequest, GenerationRequest, LanguageModel, Prompt
from agents.caching import count_in_metrics
from agents.spending import spend
from shared.errors import ItemError

Request = TypeVar("Request", ChoiceRequest, GenerationRequest)
Answer = TypeVar("Answer")

_KEY_BYTES = 20


class CachedModel:
    """A `LanguageModel` around another. Failures are not kept.

    An answer's key is a digest of everything that shapes it: the model's identity (checkpoint,
    revision, digest, tiles, versions), the words of the prompt, the content hash of every image,
    and the constraint. Its value is P(first choice) as a float64 where there are two choices.

    Attributes:
        uncached: the model itself, for who must know that it works.
        counters: the engine's own, and cache_hits and cache_misses; since the start.
        name: of this cache in the metrics.
    """

    name = "answers"

    def __init__(self, model: LanguageModel, cache: AnswerCache) -> None:
        counters: Counter[str] | None = getattr(model, "counters", None)
        self.counters: Counter[str] = Counter() if counters is None else counters
        self.concurrency: int = getattr(model, "concurrency", 1)
        self.uncached = model
        self._cache = cache
        self._identity = json.dumps(model.describe(), sort_keys=True).encode()
        count_in_metrics(self)

    @property
    def hits(self) -> int:
        return self.counters["cache_hits"]

    @property
    def misses(self) -> int:
        return self.counters["cache_misses"]

    def describe(self) -> dict[str, str]:
        """The model's own identity: a kept answer is that model's answer."""
        return self.uncached.describe()

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[tuple[float, ...] | ItemError]:
        return self._through_cache(
            requests,
            [
                self._key("choose", request.prompt, str(request.count), *request.choices)
                for request in requests
            ],
            self.uncached.choose,
            _pack_probabilities,
            _unpack_probabilities,
        )

    def generate(self, requests: Sequence[GenerationRequest]) -> list[str | ItemError]:
        return self._through_cache(
            requests,
            [
                # Unsorted keys: the order of properties is the order of generation.
                self._key(
                    "generate", request.prompt, str(request.max_tokens),
                    json.dumps(request.json_schema),
                )
                for request in requests
            ],
            self.uncached.generate,
            str.encode,
            bytes.decode,
        )  # fmt: skip

    def _through_cache(
        self,
        requests: Sequence[Request],
        keys: Sequence[bytes],
        ask: Callable[[Sequence[Request]], list[Answer | ItemError]],
        pack: Callable[[Answer], bytes],
        unpack: Callable[[bytes], Answer],
    ) -> list[Answer | ItemError]:
        kept = self._cache.get(keys)
        missing = [place for place, value in enumerate(kept) if value is None]
        spend(self.counters, cache_hits=len(keys) - len(missing), cache_misses=len(missing))
        answered = ask([requests[place] for place in missing]) if missing else []
        given = dict(zip(missing, answered, strict=True))
        self._cache.put(
            {
                keys[place]: pack(answer)
                for place, answer in given.items()
                if not isinstance(answer, ItemError)
            }
        )
        return [
            given[place] if value is None else unpack(value) for place, value in enumerate(kept)
        ]

    def _key(self, kind: str, prompt: Prompt, *constraint: str) -> bytes:
        digest = hashlib.blake2b(self._identity, digest_size=_KEY_BYTES)
        hashes = (image.sha256 for image in prompt.images)
        parts = (kind, prompt.system, prompt.text, str(prompt.tiles), *hashes)
        for part in (*parts, "", *constraint):
            encoded = part.encode()
            digest.update(struct.pack("<q", len(encoded)) + encoded)
        return digest.digest()


def _pack_probabilities(probabilities: tuple[float, ...]) -> bytes:
    """Of two choices the first alone: 8 bytes."""
    kept = probabilities[:1] if len(probabilities) == 2 else probabilities
    return struct.pack(f"<{len(kept)}d", *kept)


def _unpack_probabilities(packed: bytes) -> tuple[float, ...]:
    kept: tuple[float, ...] = struct.unpack(f"<{len(packed) // 8}d", packed)
    return (kept[0], 1.0 - kept[0]) if len(kept) == 1 else kept
