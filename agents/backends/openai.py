"""Any server of the OpenAI chat API (vLLM, SGLang, llama.cpp, a hosted one) as an engine."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from agents.backends.contract import ChoiceRequest, GenerationRequest, ImageFile, Prompt
from agents.backends.control_tokens import ControlTokens
from agents.backends.engine_loop import EngineLoop
from agents.backends.images import read_image
from agents.backends.known_images import KnownImages
from agents.spending import spend
from shared.errors import ConfigurationError, ItemError, TransientError
from shared.settings import mask_secrets
from shared.urgency import Urgency, urgency

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 20.0
_TOP_LOGPROBS = 20
"""As many as the API allows: an answer that is none of them is no answer."""
_TOKENS_PER_CHOICE = 3
"""A word, and what a free answer puts around it."""
_MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_MISCONFIGURED = frozenset({401, 403, 404})
_CONTROLS = ControlTokens()


class OpenAiModel:
    """A `LanguageModel` behind HTTP; thread-safe.

    Attributes:
        concurrency: how many messages may be answered at once.
        counters: requests, prefilled_tokens, cached_tokens, decoded_tokens, images_sent,
            images_named, retries; since the start. Tokens as the server reports them.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        loop: EngineLoop,
        model: str,
        *,
        options: Mapping[str, Any],
        named_images: int,
        in_flight: int,
        concurrency: int,
        attempts: int,
        identity: dict[str, str],
    ) -> None:
        """Prefer `load`."""
        self.concurrency = concurrency
        self.counters: Counter[str] = Counter()
        self._client = client
        self._loop = loop
        self._model = model
        self._options = dict(options)
        self._names_images = named_images > 0
        self._images = KnownImages(named_images)
        self._budget = asyncio.Semaphore(in_flight)
        self._attempts = attempts
        self._identity = identity

    def describe(self) -> dict[str, str]:
        """Backend, checkpoint as the server names it, server, tiles."""
        return dict(self._identity)

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[tuple[float, ...] | ItemError]:
        """The first token's probability of each choice, among the choices."""
        urgent = urgency()
        return self._loop.run(_all([self._choice(request, urgent) for request in requests]))

    def generate(self, requests: Sequence[GenerationRequest]) -> list[str | ItemError]:
        """Greedy decoding, held to the JSON schema by the server where there is one."""
        urgent = urgency()
        return self._loop.run(_all([self._text(request, urgent) for request in requests]))

    def close(self) -> None:
        """Close the connections; what is under way fails."""
        self._loop.run(self._client.aclose())
        self._loop.close()

    # --- in the engine's event loop ---------------------------------------------------------------

    async def _choice(
        self, request: ChoiceRequest, urgent: Urgency
    ) -> tuple[float, ...] | ItemError:
        tokens = 1 if request.count == 1 else _TOKENS_PER_CHOICE * request.count
        asked = {"max_tokens": tokens, "logprobs": True, "top_logprobs": _TOP_LOGPROBS}
        try:
            answer = await self._answer(request.prompt, asked, urgent)
            return _probabilities(answer, request.choices, request.count)
        except ItemError as error:
            return error

    async def _text(self, request: GenerationRequest, urgent: Urgency) -> str | ItemError:
        asked: dict[str, Any] = {"max_tokens": request.max_tokens}
        if request.json_schema is not None:
            asked["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": request.json_schema, "strict": True},
            }
        try:
            return _content(await self._answer(request.prompt, asked, urgent)).strip()
        except ItemError as error:
            return error

    async def _answer(self, prompt: Prompt, asked: Mapping[str, Any], urgent: Urgency) -> Any:
        """The server's first choice. Raises: ItemError: it refused, or answered nonsense."""
        if urgent is Urgency.INTERACTIVE:
            return await self._with_images(prompt, asked, urgent)
        async with self._budget:  # a person's requests don't queue behind a benchmark's
            return await self._with_images(prompt, asked, urgent)

    async def _with_images(self, prompt: Prompt, asked: Mapping[str, Any], urgent: Urgency) -> Any:
        hashes = [image.sha256 for image in prompt.images]
        if hashes and all(self._images.known(sha256) for sha256 in hashes):
            named = [self._named(image) for image in prompt.images]
            try:
                answer = await self._post(_messages(prompt, named), asked, urgent)
                spend(self.counters, images_named=len(named))
                return answer
            except _RefusedError:  # the server has dropped one of them meanwhile
                self._images.forget(hashes)
        sent = await asyncio.gather(*(self._sent(image) for image in prompt.images))
        answer = await self._post(_messages(prompt, sent), asked, urgent)
        if self._names_images:
            self._images.learn(hashes)
        return answer

    def _named(self, image: ImageFile) -> dict[str, Any]:
        return {"type": "image_url", "image_url": None, "uuid": image.sha256}

    async def _sent(self, image: ImageFile) -> dict[str, Any]:
        url = await asyncio.to_thread(_data_url, image)
        spend(self.counters, images_sent=1)
        part: dict[str, Any] = {"type": "image_url", "image_url": {"url": url}}
        return part | ({"uuid": image.sha256} if self._names_images else {})

    async def _post(
        self, messages: Sequence[Mapping[str, Any]], asked: Mapping[str, Any], urgent: Urgency
    ) -> Any:
        body = {
            "model": self._model,
            "messages": messages,
            "temperature": 0,
            "stream": False,
            **asked,
            **self._options,
        }
        if self._names_images:  # a server of vLLM's kind, which knows priorities too
            body["priority"] = int(urgent)
        for attempt in range(1, self._attempts + 1):
            try:
                response = await self._client.post("chat/completions", json=body)
            except httpx.TransportError as error:
                problem, pause_s = f"{type(error).__name__} {error}".strip(), None
            else:
                if response.status_code == httpx.codes.OK:
                    return self._first_choice(response)
                problem, pause_s = _problem(response), _retry_after_s(response)
                if response.status_code in _MISCONFIGURED:
                    raise ConfigurationError(problem)
                if response.status_code not in _PASSING:
                    raise _RefusedError(problem)
            if attempt < self._attempts:
                spend(self.counters, retries=1)
                await asyncio.sleep(_back_off_s(attempt) if pause_s is None else pause_s)
        raise ItemError(f"no answer after {self._attempts} attempts: {problem}")

    def _first_choice(self, response: httpx.Response) -> Any:
        try:
            answer = response.json()
            choice = answer["choices"][0]
            usage = answer.get("usage") or {}
            prompt_tokens = int(usage.get("prompt_tokens") or 0)
            details = usage.get("prompt_tokens_details") or {}
            cached = int(details.get("cached_tokens") or 0)
            decoded = int(usage.get("completion_tokens") or 0)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ItemError(
                f"the server's answer is no chat completion: {response.text[:200]!r}"
            ) from error
        spend(
            self.counters,
            requests=1,
            cached_tokens=cached,
            prefilled_tokens=prompt_tokens - cached,
            decoded_tokens=decoded,
        )
        return choice


class _RefusedError(ItemError):
    """The server will not answer this request, however often it is asked."""


def load(
    checkpoint: str,
    *,
    base_url: str = "",
    api_key_variable: str = "OPENAI_API_KEY",
    server: str = "openai",
    options: Mapping[str, Any] | None = None,
    images_known: int = 4096,
    in_flight: int = 256,
    concurrency: int = 16,
    attempts: int = 6,
    timeout_s: float = 120.0,
) -> OpenAiModel:
    """A model by the name its server gives it.

    Args:
        base_url: e.g. "http://host:8000/v1"; empty = the environment's OPENAI_BASE_URL.
        api_key_variable: the environment variable that holds the key; it may be unset.
        server: "vllm" if images may be named by their hash once sent, and requests have priorities.
        options: added to every request, e.g. {mm_processor_kwargs = {max_patches = 1}} for vLLM.
        images_known: images that a vLLM server is taken to remember.
        in_flight: background requests at once; a person's come on top.
        attempts: how often a request is sent while the server is busy or away.
        timeout_s: for one answer.
    Raises: ConfigurationError: no URL, the server can't be reached, or does not have the model.
    """
    url = base_url or os.environ.get("OPENAI_BASE_URL", "")
    if not url:
        raise ConfigurationError("the openai backend needs base_url, or OPENAI_BASE_URL")
    if server not in ("openai", "vllm"):
        raise ConfigurationError(f"server is {server!r}: use 'openai' or 'vllm'")
    key = os.environ.get(api_key_variable, "")
    client = httpx.AsyncClient(
        base_url=url.rstrip("/") + "/",
        headers={"authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(timeout_s, connect=10),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=in_flight),
    )
    loop = EngineLoop("openai")
    try:
        loop.run(_check_model(client, mask_secrets(url), checkpoint))
    except ConfigurationError:
        loop.run(client.aclose())
        loop.close()
        raise
    return OpenAiModel(
        client,
        loop,
        checkpoint,
        options=options or {},
        named_images=images_known if server == "vllm" else 0,
        in_flight=in_flight,
        concurrency=concurrency,
        attempts=attempts,
        identity={
            "backend": "openai",
            "checkpoint": checkpoint,
            "revision": "",
            "server": client.base_url.host,
            "options": json.dumps(options or {}, sort_keys=True),
        },
    )


async def _check_model(client: httpx.AsyncClient, url: str, checkpoint: str) -> None:
    try:
        response = await client.get("models")
        response.raise_for_status()
        served = [str(model["id"]) for model in response.json()["data"]]
    except httpx.HTTPStatusError as error:
        raise ConfigurationError(f"{url}: {_problem(error.response)}") from error
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise ConfigurationError(f"no server answers at {url}: {error}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise ConfigurationError(f"{url}/models is no list of models") from error
    if checkpoint not in served:
        raise ConfigurationError(f"{url} serves {', '.join(served) or 'nothing'}, not {checkpoint}")


async def _all(asked: Sequence[Any]) -> list[Any]:
    """Every answer; a wrong configuration or a fault of ours is raised once all are through."""
    answers = await asyncio.gather(*asked, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, ItemError):
            if isinstance(answer, httpx.HTTPError):
                raise TransientError(f"the server can't be asked: {answer}") from answer
            raise answer
    return answers


def _messages(prompt: Prompt, images: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Images first, then the constant words, then the question: what servers can share.

    What looks like a control token is made inert here: the server's tokenizer is not at hand.
    """
    text = _CONTROLS.inert(prompt.text)
    content: Any = [*images, {"type": "text", "text": text}] if images else text
    system = [{"role": "system", "content": prompt.system}] if prompt.system else []
    return [*system, {"role": "user", "content": content}]


def _data_url(image: ImageFile) -> str:
    """The file's own bytes. Raises: ItemError: it is missing or broken (said here, not there)."""
    read_image(image)
    kind = _MEDIA_TYPES.get(image.path.suffix.lower(), "application/octet-stream")
    return f"data:{kind};base64,{base64.b64encode(image.path.read_bytes()).decode()}"


def _content(choice: Any) -> str:
    try:
        content = choice["message"]["content"]
    except (LookupError, TypeError) as error:
        raise ItemError("the server's answer holds no message") from error
    if not isinstance(content, str):
        raise ItemError("the server's answer holds no text")
    return content


def _probabilities(choice: Any, choices: Sequence[str], count: int = 1) -> tuple[float, ...]:
    """P of each choice given that it is one of them; a token counts for the choice it begins.

    Of several choices in a row: at the tokens of the answer that begin one.

    Raises: ItemError: no log-probabilities, or the answer is not `count` of the choices.
    """
    try:
        positions = choice["logprobs"]["content"]
        if count > 1:
            positions = [entry for entry in positions if _begun(str(entry["token"]), choices)]
        if len(positions) < count:
            raise ItemError(f"the model's answer is not {count} times one of {', '.join(choices)}")
        return tuple(
            probability
            for position in positions[:count]
            for probability in _shares(position["top_logprobs"], choices)
        )
    except (LookupError, TypeError, ValueError) as error:
        raise ItemError("the server gave no log-probabilities, which answers need") from error


def _begun(token: str, choices: Sequence[str]) -> str:
    """The choice a token begins; empty where it is none."""
    word = token.strip().lower()
    return next((named for named in choices if word and named.lower().startswith(word)), "")


def _shares(likeliest: Sequence[Mapping[str, Any]], choices: Sequence[str]) -> list[float]:
    weights = dict.fromkeys(choices, 0.0)
    for entry in likeliest:
        if named := _begun(str(entry["token"]), choices):
            weights[named] += math.exp(float(entry["logprob"]))
    total = sum(weights.values())
    if total <= 0:
        raise ItemError(f"the model's answer is none of {', '.join(choices)}")
    return [weights[named] / total for named in choices]


def _problem(response: httpx.Response) -> str:
    return f"the server said {response.status_code}: {response.text[:300]}"


def _retry_after_s(response: httpx.Response) -> float | None:
    try:
        return min(float(response.headers["retry-after"]), _LONGEST_PAUSE_S)
    except (LookupError, ValueError):
        return None


def _back_off_s(attempt: int) -> float:
    pause_s = min(_FIRST_PAUSE_S * 2.0 ** (attempt - 1), _LONGEST_PAUSE_S)
    return pause_s * random.uniform(0.5, 1)  # so that many requests don't come back at once
