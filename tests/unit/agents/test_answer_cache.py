"""Answers given before: kept by what shaped them, in tiers, never a failure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from redis import Redis

from agents.backends.answer_cache import (
    DiskAnswers,
    RedisAnswers,
    TieredAnswers,
    open_answer_cache,
)
from agents.backends.cached_model import CachedModel
from agents.backends.contract import ChoiceRequest, GenerationRequest, ImageFile, Prompt
from agents.backends.zero_cost import ZeroCostLanguageModel
from agents.caching import counted_caches
from agents.profiles import load_models, load_profile
from shared.errors import ConfigurationError, ItemError
from shared.settings import Settings
from tests.integration.agents.processes import PROFILE


class Remembered:
    """An `AnswerCache` in memory that records what it is asked."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.values.get(key) for key in keys]

    def put(self, entries: Mapping[bytes, bytes]) -> None:
        self.values.update(entries)


class Counted(ZeroCostLanguageModel):
    """Counts what reaches the engine."""

    def __init__(self, failing: str = "", revision: str = "a") -> None:
        super().__init__(failing)
        self.asked = 0
        self.revision = revision

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[tuple[float, ...] | ItemError]:
        self.asked += len(requests)
        return super().choose(requests)

    def generate(self, requests: Sequence[GenerationRequest]) -> list[str | ItemError]:
        self.asked += len(requests)
        return super().generate(requests)

    def describe(self) -> dict[str, str]:
        return {"checkpoint": "counted", "revision": self.revision}


def image(sha256: str) -> ImageFile:
    return ImageFile(Path(f"{sha256}.png"), sha256)


def question(text: str, *hashes: str) -> ChoiceRequest:
    return ChoiceRequest(Prompt(text, tuple(image(sha256) for sha256 in hashes)))


QUESTIONS = [question("Is it red?", "a"), question("Is it red?", "b"), question("Is it round?")]


def test_a_second_run_asks_the_engine_nothing_and_gets_the_same_bytes() -> None:
    engine = Counted()
    model = CachedModel(engine, Remembered())
    first = model.choose(QUESTIONS)
    assert model.choose(QUESTIONS) == first
    assert engine.asked == len(QUESTIONS)
    assert model.counters["cache_hits"] == model.counters["cache_misses"] == len(QUESTIONS)
    assert counted_caches()["answers"] == (len(QUESTIONS), len(QUESTIONS))


def test_only_what_is_missing_is_asked_and_comes_in_its_place() -> None:
    engine, kept = Counted(), Remembered()
    CachedModel(engine, kept).choose(QUESTIONS[1:2])
    answers = CachedModel(engine, kept).choose(QUESTIONS)
    assert engine.asked == 1 + 2
    assert answers == Counted().choose(QUESTIONS)


def test_two_choices_take_eight_bytes() -> None:
    kept = Remembered()
    CachedModel(Counted(), kept).choose(QUESTIONS)
    assert {len(value) for value in kept.values.values()} == {8}


@pytest.mark.parametrize(
    "other",
    [
        question("Is it red? ", "a"),
        question("Is it red?", "c"),
        question("Is it red?", "a", "a"),
        ChoiceRequest(Prompt("Is it red?", (image("a"),), system="Be strict.")),
        ChoiceRequest(Prompt("Is it red?", (image("a"),)), ("No", "Yes")),
    ],
)
def test_whatever_shapes_an_answer_is_part_of_its_key(other: ChoiceRequest) -> None:
    engine = Counted()
    model = CachedModel(engine, Remembered())
    model.choose([QUESTIONS[0]])
    model.choose([other])
    assert engine.asked == 2


def test_another_revision_answers_anew() -> None:
    kept, later = Remembered(), Counted(revision="b")
    CachedModel(Counted(revision="a"), kept).choose(QUESTIONS)
    CachedModel(later, kept).choose(QUESTIONS)
    assert later.asked == len(QUESTIONS)


def test_a_failure_is_asked_again() -> None:
    kept = Remembered()
    failed = CachedModel(Counted(failing="round"), kept).choose(QUESTIONS)
    assert isinstance(failed[2], ItemError)
    mended = Counted()
    assert not isinstance(CachedModel(mended, kept).choose(QUESTIONS)[2], ItemError)
    assert mended.asked == 1


def test_generated_texts_are_kept_with_their_schema_and_length() -> None:
    engine, kept = Counted(), Remembered()
    model = CachedModel(engine, kept)
    asked = [
        GenerationRequest(Prompt("Describe it, auf Schwäbisch."), 80),
        GenerationRequest(Prompt("Describe it, auf Schwäbisch."), 81),
        GenerationRequest(Prompt("Describe it, auf Schwäbisch."), 80, {"type": "string"}),
    ]
    assert model.generate(asked) == model.generate(asked)
    assert engine.asked == len(asked)


def test_what_is_on_disk_is_found_by_the_next_process(tmp_path: Path) -> None:
    first = DiskAnswers(tmp_path / "cache" / "answers.sqlite")
    entries = {bytes([n // 256, n % 256]): str(n).encode() for n in range(1_200)}
    first.put(entries)
    first.close()
    second = DiskAnswers(tmp_path / "cache" / "answers.sqlite")
    assert second.get([*entries, b"none"]) == [*entries.values(), None]
    second.close()


def test_a_lower_tier_fills_the_upper() -> None:
    upper, lower = Remembered(), Remembered()
    lower.put({b"k": b"v"})
    assert TieredAnswers([upper, lower]).get([b"k", b"none"]) == [b"v", None]
    assert upper.values == {b"k": b"v"}


def test_without_redis_nothing_is_found_and_nothing_breaks() -> None:
    away = RedisAnswers(Redis.from_url("redis://127.0.0.1:1/0", socket_connect_timeout=0.2), 60)
    away.put({b"k": b"v"})
    assert away.get([b"k"]) == [None]


def test_one_setting_says_where_answers_are_kept(tmp_path: Path) -> None:
    def opened(answer_cache: str) -> object:
        return open_answer_cache(Settings(home=tmp_path, answer_cache=answer_cache))

    assert opened("off") is None
    disk = opened("disk")
    assert isinstance(disk, DiskAnswers)
    disk.close()
    assert isinstance(opened("redis://127.0.0.1:1/0"), RedisAnswers)
    assert isinstance(opened("disk, redis://127.0.0.1:1/0"), TieredAnswers)
    with pytest.raises(ConfigurationError, match="XR_ANSWER_CACHE is 'on'"):
        opened("on")


def test_a_model_that_does_not_say_which_weights_it_has_is_asked_every_time(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(PROFILE.format(language="zero_cost"))
    for model in load_models(load_profile(str(path)), ["question"], cache=Remembered()).values():
        assert isinstance(model, ZeroCostLanguageModel)


def test_a_shipped_checkpoint_s_answers_are_kept() -> None:
    models = load_models(load_profile("demo"), ["question"], cache=Remembered())
    assert {type(model) for model in models.values()} == {CachedModel}
