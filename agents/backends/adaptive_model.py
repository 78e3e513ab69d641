"""A language model that looks again, at more tiles, where its first look leaves it undecided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from msgspec.structs import replace

from agents.backends.contract import ChoiceRequest, GenerationRequest, LanguageModel
from agents.spending import spend
from shared.errors import ConfigurationError, ItemError


class AdaptiveModel:
    """A `LanguageModel` around another; only yes/no questions about images are asked again.

    Attributes:
        counters: the model's own, and asked_with_more_tiles; since the start.
    """

    def __init__(self, model: LanguageModel, tiles: int, undecided: Sequence[float]) -> None:
        """
        Args:
            tiles: of the second look, at most.
            undecided: (lowest, highest) P(first choice) that is looked at again.
        Raises: ConfigurationError: `undecided` is no range of probabilities.
        """
        if len(undecided) != 2 or not 0 <= undecided[0] <= undecided[1] <= 1:
            raise ConfigurationError(
                f"undecided is {list(undecided)}: give the lowest and the highest P(yes) to look at"
                " again, such as [0.2, 0.8]"
            )
        counters: Counter[str] | None = getattr(model, "counters", None)
        self.counters: Counter[str] = Counter() if counters is None else counters
        self.concurrency: int = getattr(model, "concurrency", 1)
        self._model = model
        self._tiles = tiles
        self._lowest, self._highest = undecided

    def describe(self) -> dict[str, str]:
        """The model's own identity, and when it looks again."""
        again = f"{self._tiles} from {self._lowest:g} to {self._highest:g}"
        return {**self._model.describe(), "adaptive_tiles": again}

    def close(self) -> None:
        """End the model's engine, where it has one."""
        close = getattr(self._model, "close", None)
        if close is not None:
            close()

    def generate(self, requests: Sequence[GenerationRequest]) -> list[str | ItemError]:
        return self._model.generate(requests)

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[tuple[float, ...] | ItemError]:
        answers = self._model.choose(requests)
        again = [
            place
            for place, (request, answer) in enumerate(zip(requests, answers, strict=True))
            if request.prompt.images and not isinstance(answer, ItemError) and self._is_open(answer)
        ]
        if not again:
            return answers
        spend(self.counters, asked_with_more_tiles=len(again))
        closer = self._model.choose(
            [
                replace(requests[place], prompt=replace(requests[place].prompt, tiles=self._tiles))
                for place in again
            ]
        )
        for place, answer in zip(again, closer, strict=True):
            answers[place] = answer
        return answers

    def _is_open(self, answer: tuple[float, ...]) -> bool:
        """Whether one of the answers in a row is undecided."""
        return any(self._lowest <= p_yes <= self._highest for p_yes in answer[::2])
