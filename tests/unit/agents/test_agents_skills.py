"""The skills answer mixed batches with one entry per row, and one bad row fails alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.backends.contract import ChoiceRequest, GenerationRequest
from agents.backends.zero_cost import ZeroCostEmbeddingModel, ZeroCostLanguageModel
from agents.imagination.skills import ImaginationAgent
from agents.profiles import AGENT_ROLES
from agents.prompting import load_prompts
from agents.question.skills import QuestionAgent
from agents.similarity.skills import SimilarityAgent
from agents.stores import Databases, Galleries
from shared.contracts.messages import Failure
from shared.contracts.skills import (
    Answers,
    CandidatesCompared,
    CandidatesVerified,
    Caption,
    CaptionImages,
    CompareCandidates,
    Edit,
    EmbedImages,
    EmbedTexts,
    GalleryRanked,
    ImageImagined,
    ImagesCaptioned,
    ImagesEmbedded,
    ImagineImage,
    ImagineText,
    ItemFailure,
    ListRequest,
    ProposeQuestions,
    QuestionsProposed,
    RankGallery,
    Request,
    TextImagined,
    TextsEmbedded,
    Vector,
    VerifyCaptions,
    VerifyImages,
)
from shared.errors import ItemError
from shared.galleries import Gallery
from shared.image_database import ImageDatabase
from tests.unit.agents.scenes import make_database, make_gallery, message, write_pictures

PICTURES = 6
QUESTIONS = ("Is it red?", "Is it round?")


class CountingModel(ZeroCostLanguageModel):
    """Notes the sizes of the batches it gets."""

    def __init__(self, failing: str = "") -> None:
        super().__init__(failing)
        self.batches: list[int] = []

    def generate(self, requests: Sequence[GenerationRequest]) -> list[str | ItemError]:
        self.batches.append(len(requests))
        return super().generate(requests)

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[tuple[float, ...] | ItemError]:
        self.batches.append(len(requests))
        return super().choose(requests)


class CountingClip(ZeroCostEmbeddingModel):
    """Notes the texts it gets."""

    def __init__(self, failing: str = "") -> None:
        super().__init__(failing=failing)
        self.texts: list[str] = []

    def embed_texts(self, texts: Sequence[str]) -> list[Any]:
        self.texts += texts
        return super().embed_texts(texts)


@dataclass
class World:
    home: Path
    gallery: Gallery
    database: ImageDatabase

    @property
    def galleries(self) -> Galleries:
        return Galleries(self.home / "galleries")

    @property
    def databases(self) -> Databases:
        return Databases(self.home / "image_db")

    def imagination(self, model: ZeroCostLanguageModel) -> ImaginationAgent:
        roles = dict.fromkeys(AGENT_ROLES["imagination"], model)
        return ImaginationAgent(roles, load_prompts("compact"), self.galleries)

    def question(self, model: ZeroCostLanguageModel) -> QuestionAgent:
        roles = dict.fromkeys(AGENT_ROLES["question"], model)
        return QuestionAgent(roles, load_prompts("compact"), self.galleries, self.databases)

    def similarity(self, clip: ZeroCostEmbeddingModel) -> SimilarityAgent:
        return SimilarityAgent(clip, self.galleries, self.databases)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Six pictures, the third broken on disk, the fourth without a caption."""
    home = tmp_path_factory.mktemp("home")
    pictures = write_pictures(home / "pictures", PICTURES)
    pictures[2].write_bytes(b"no image at all")
    gallery = make_gallery(home / "galleries", pictures)
    captions = [None if row in (2, 3) else f"caption {row}" for row in range(PICTURES)]
    return World(home, gallery, make_database(home, gallery, captions))


def test_one_broken_image_fails_alone_among_those_captioned(world: World) -> None:
    agent = world.imagination(ZeroCostLanguageModel(failing="picture-4"))
    (result,) = agent.answer([message(CaptionImages(world.gallery.key, (0, 2, 4, 99, 5)))])
    assert isinstance(result, ImagesCaptioned)
    kinds = [type(entry) for entry in result.results]
    assert kinds == [Caption, ItemFailure, ItemFailure, ItemFailure, Caption]
    assert "picture-2" in str(result.results[1])
    assert "99" in str(result.results[3])


def test_different_imagination_messages_share_one_batch_and_keep_their_order(world: World) -> None:
    model = CountingModel()
    bodies: list[Request] = [
        CaptionImages(world.gallery.key, (0, 1)),
        ImagineText("make it blue", "a red dress"),
        ImagineImage("make it blue", world.gallery.key, 1),
        CaptionImages("0" * 32, (0,)),
        ImagineImage("make it blue", world.gallery.key, 2),
        ImagineImage("a dog"),
    ]
    results = world.imagination(model).answer([message(body) for body in bodies])
    expected = [ImagesCaptioned, TextImagined, ImageImagined, Failure, Failure, ImageImagined]
    assert [type(result) for result in results] == expected
    assert model.batches == [5]
    alone = [world.imagination(CountingModel()).answer([message(body)])[0] for body in bodies]
    assert results == alone


def test_a_dialogue_goes_on_from_the_previous_description(world: World) -> None:
    agent = world.imagination(ZeroCostLanguageModel())
    (with_caption,) = agent.answer([message(ImagineText("blue", "ignored", "a red dress"))])
    (without,) = agent.answer([message(ImagineText("blue", "", "a red dress"))])
    assert with_caption == without


def test_every_candidate_gets_its_own_answers_in_the_order_asked(world: World) -> None:
    agent = world.question(ZeroCostLanguageModel(failing="picture-4"))
    rows = (5, 2, 0, 4, 1)
    (result,) = agent.answer([message(VerifyImages(world.gallery.key, rows, QUESTIONS))])
    assert isinstance(result, CandidatesVerified)
    for row, entry in zip(rows, result.results, strict=True):
        if row in (2, 4):
            assert isinstance(entry, ItemFailure)
            continue
        body = VerifyImages(world.gallery.key, (row,), QUESTIONS)
        (alone,) = agent.answer([message(body)])
        assert isinstance(alone, CandidatesVerified)
        assert alone.results == (entry,)
        assert isinstance(entry, Answers)
        assert len(entry.p_yes) == len(QUESTIONS)


def test_a_candidate_with_one_failed_question_fails_as_a_whole(world: World) -> None:
    agent = world.question(ZeroCostLanguageModel(failing="round"))
    (result,) = agent.answer([message(VerifyImages(world.gallery.key, (0, 1), QUESTIONS))])
    assert isinstance(result, CandidatesVerified)
    assert all(isinstance(entry, ItemFailure) for entry in result.results)


def test_a_row_without_caption_fails_alone_among_those_verified(world: World) -> None:
    agent = world.question(ZeroCostLanguageModel())
    body = VerifyCaptions(world.database.key, (3, 0, -1, 6, 5), QUESTIONS)
    (result,) = agent.answer([message(body)])
    assert isinstance(result, CandidatesVerified)
    kinds = [type(entry) for entry in result.results]
    assert kinds == [ItemFailure, Answers, ItemFailure, ItemFailure, Answers]


def test_the_question_skills_share_one_batch_of_choices(world: World) -> None:
    model = CountingModel()
    bodies: list[Request] = [
        ProposeQuestions("blue", (Edit("add", "hat", "new"),), ("hat",), (), limit=2),
        VerifyImages(world.gallery.key, (0, 1), QUESTIONS),
        CompareCandidates(world.gallery.key, 0, (1, 2, 4), "make it blue"),
        VerifyCaptions(world.database.key, (0,), QUESTIONS),
        CompareCandidates(world.gallery.key, 2, (1,), "make it blue"),
        ProposeQuestions("blue", (), (), (), limit=0),
        EmbedTexts(("not a question",)),
    ]
    results = world.question(model).answer([message(body) for body in bodies])
    proposed, verified, compared, read, no_reference, no_limit, stranger = results
    assert model.batches == [1, 4 + 2 + 2]
    assert isinstance(proposed, QuestionsProposed)
    assert len(proposed.propositions) <= 2
    assert isinstance(verified, CandidatesVerified)
    assert isinstance(compared, CandidatesCompared)
    assert [type(entry) for entry in compared.results] == [Answers, ItemFailure, Answers]
    assert isinstance(read, CandidatesVerified)
    assert isinstance(no_reference, Failure)
    assert isinstance(no_limit, Failure)
    assert isinstance(stranger, Failure)


def test_embedding_failures_stay_in_their_places(world: World) -> None:
    agent = world.similarity(ZeroCostEmbeddingModel(failing="broken"))
    images, texts = agent.answer(
        [
            message(EmbedImages(world.gallery.key, (0, 2, 1))),
            message(EmbedTexts(("fine", "broken", "fine"))),
        ]
    )
    assert isinstance(images, ImagesEmbedded)
    assert [type(entry) for entry in images.results] == [Vector, ItemFailure, Vector]
    assert isinstance(texts, TextsEmbedded)
    assert [type(entry) for entry in texts.results] == [Vector, ItemFailure, Vector]
    assert texts.results[0] == texts.results[2]


def test_texts_embedded_lately_are_not_embedded_again(world: World) -> None:
    clip = CountingClip()
    agent = world.similarity(clip)
    first = agent.answer([message(EmbedTexts(("a", "b", "a")))])
    again = agent.answer([message(EmbedTexts(("a", "b", "a"))), message(EmbedTexts(("c",)))])
    assert again[0] == first[0]
    assert clip.texts == ["a", "b", "c"]


def test_rankings_are_those_of_a_plain_computation(world: World) -> None:
    clip = ZeroCostEmbeddingModel()
    sets = {"v1": ("a dress", "a blue dress"), "v2": ("a hat",), "aug": ("a dress", "a hat")}
    lists = (
        ListRequest("visual", "visual", "v1"),
        ListRequest("textual", "textual", "v2"),
        ListRequest("hybrid", "hybrid", "aug"),
    )
    body = RankGallery(world.database.key, sets, lists, 0.15, depth=4, excluded_rows=(1,))
    (ranked,) = world.similarity(clip).answer([message(body)])
    assert isinstance(ranked, GalleryRanked)

    images = np.asarray(world.database.image_embeddings, np.float64)
    captions = np.asarray(world.database.caption_embeddings, np.float64)
    for listed, wanted in zip(ranked.lists, lists, strict=True):
        texts = np.stack([np.asarray(v) for v in clip.embed_texts(sets[wanted.text_set])])
        visual, textual = (texts @ images.T).mean(0), (texts @ captions.T).mean(0)
        scores = {
            "visual": visual,
            "textual": textual,
            "hybrid": 0.85 * visual + 0.15 * textual,
        }[wanted.kind]
        absent = {"visual": {2}, "textual": {2, 3}, "hybrid": {2, 3}}[wanted.kind]
        rankable = [row for row in range(PICTURES) if row not in absent | {1}]
        expected = sorted(rankable, key=lambda row: -scores[row])[:4]
        assert np.frombuffer(listed.rows, "<i4").tolist() == expected
        np.testing.assert_allclose(np.frombuffer(listed.scores, "<f4"), scores[expected], atol=1e-5)


def test_a_ranking_whose_text_or_database_fails_is_refused_alone(world: World) -> None:
    agent = world.similarity(ZeroCostEmbeddingModel(failing="broken"))
    lists = (ListRequest("visual", "visual", "v1"),)

    def rank(database: str, *texts: str) -> RankGallery:
        return RankGallery(database, {"v1": texts}, lists, 0.15, depth=2)

    results = agent.answer(
        [
            message(rank(world.database.key, "broken")),
            message(rank("0" * 32, "fine")),
            message(rank(world.database.key)),
            message(rank(world.database.key, "fine")),
        ]
    )
    assert [type(result) for result in results] == [Failure, Failure, Failure, GalleryRanked]


def test_a_gallery_whose_pictures_moved_is_read_again(tmp_path: Path) -> None:
    # Given an agent that has the gallery open
    pictures = write_pictures(tmp_path / "old", 2)
    gallery = make_gallery(tmp_path / "galleries", pictures)
    galleries = Galleries(tmp_path / "galleries")
    galleries.images(gallery.key, (0,))
    # When the same pictures are listed at another place
    (tmp_path / "old").rename(tmp_path / "new")
    moved = make_gallery(tmp_path / "galleries", sorted((tmp_path / "new").iterdir()))
    # Then the same key leads there
    assert moved.key == gallery.key
    (image,) = galleries.images(gallery.key, (0,))
    assert not isinstance(image, ItemFailure)
    assert image.path.parent == tmp_path / "new"
