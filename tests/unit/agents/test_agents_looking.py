"""Second looks at more tiles, several choices in a row, and shrunk images kept on the disk."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from agents.backends import image_reader
from agents.backends.adaptive_model import AdaptiveModel
from agents.backends.chat_model import ChatModel
from agents.backends.contract import ChoiceRequest, ImageFile, Prompt
from agents.backends.image_reader import ImageReader
from agents.backends.transformers import load
from agents.backends.zero_cost import ZeroCostLanguageModel
from agents.derivatives import keep_derivatives
from agents.prompting import load_prompts
from agents.question.skills import QuestionAgent
from agents.skill_prompts import numbered
from agents.stores import Databases, Galleries
from shared.contracts.skills import Answers, CandidatesVerified, ItemFailure, VerifyImages
from shared.errors import ConfigurationError, ItemError
from tests.unit.agents.scenes import image_files, make_gallery, message, write_pictures
from tests.unit.agents.tiny_checkpoints import TILE_PX, write_vision_checkpoint

UNDECIDED = (0.4, 0.6)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_vision_checkpoint(tmp_path_factory.mktemp("checkpoint") / "vision")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[ImageFile]:
    return image_files(tmp_path_factory.mktemp("images"), 4)


@pytest.fixture
def derivatives(tmp_path: Path) -> Iterator[Path]:
    keep_derivatives(tmp_path / "derivatives")
    yield tmp_path / "derivatives"
    keep_derivatives(None)


def photograph(path: Path, width: int, height: int) -> ImageFile:
    pixels = np.random.default_rng(3).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return ImageFile(path, hashlib.sha256(path.read_bytes()).hexdigest())


class ByTiles(ZeroCostLanguageModel):
    """Undecided at one tile about the undecidable; certain at more."""

    def __init__(self) -> None:
        super().__init__()
        self.tiles: list[int] = []

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[tuple[float, ...] | ItemError]:
        self.tiles += [request.prompt.tiles for request in requests]
        return [
            (0.99, 0.01) if request.prompt.tiles or "clear" in request.prompt.text else (0.5, 0.5)
            for request in requests
        ]


def test_only_what_is_undecided_is_looked_at_again(images: list[ImageFile]) -> None:
    model = ByTiles()
    adaptive = AdaptiveModel(model, 6, UNDECIDED)
    asked = [
        ChoiceRequest(Prompt("hidden?", (images[0],))),
        ChoiceRequest(Prompt("clear?", (images[0],))),
        ChoiceRequest(Prompt("hidden, and no image?")),
    ]
    assert adaptive.choose(asked) == [(0.99, 0.01), (0.99, 0.01), (0.5, 0.5)]
    assert model.tiles == [0, 0, 0, 6]
    assert adaptive.counters["asked_with_more_tiles"] == 1
    assert adaptive.describe()["adaptive_tiles"] == "6 from 0.4 to 0.6"


def test_a_range_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="undecided"):
        AdaptiveModel(ByTiles(), 6, (0.8, 0.2))


def test_more_tiles_are_what_a_model_of_more_tiles_sees(checkpoint: Path, tmp_path: Path) -> None:
    image = photograph(tmp_path / "wide.png", 4 * TILE_PX, TILE_PX)
    one, four = load(str(checkpoint), rows=4), load(str(checkpoint), rows=4, max_tiles=4)
    plain = ChoiceRequest(Prompt("Is it red?", (image,)))
    closer = ChoiceRequest(Prompt("Is it red?", (image,), tiles=4))
    assert one.choose([plain, closer]) == [*one.choose([plain]), *four.choose([plain])]
    assert one.choose([plain]) != four.choose([plain])
    assert load(str(checkpoint), rows=4, adaptive_tiles=4, undecided=(0, 1)).choose(
        [plain]
    ) == four.choose([plain])


def test_the_first_of_several_choices_is_the_choice_alone_and_the_next_sees_it(
    checkpoint: Path, images: list[ImageFile]
) -> None:
    model = load(str(checkpoint), rows=4)
    assert isinstance(model, ChatModel)
    prompt = Prompt("Is it red?\nIs it round?", (images[0],))
    alone, in_a_row = model.choose([ChoiceRequest(prompt), ChoiceRequest(prompt, count=3)])
    assert not isinstance(alone, ItemError) and not isinstance(in_a_row, ItemError)
    assert len(in_a_row) == 6
    for place in (0, 2, 4):
        assert sum(in_a_row[place : place + 2]) == pytest.approx(1)
    assert in_a_row[:2] != in_a_row[2:4]
    # the same bytes whatever else is in the batch
    assert model.choose([ChoiceRequest(prompt, count=3)]) == [in_a_row]


def test_joint_questions_are_one_request_per_candidate_with_an_answer_each(
    tmp_path: Path,
) -> None:
    gallery = make_gallery(tmp_path / "galleries", write_pictures(tmp_path / "pictures", 3))
    asked: list[ChoiceRequest] = []

    class Noting(ZeroCostLanguageModel):
        def choose(self, requests: Sequence[ChoiceRequest]) -> list[tuple[float, ...] | ItemError]:
            asked.extend(requests)
            return super().choose(requests)

    models = dict.fromkeys(
        ("proposer", "evaluator_image", "evaluator_caption", "comparer"), Noting()
    )
    agent = QuestionAgent(
        models,
        load_prompts("standard"),
        Galleries(tmp_path / "galleries"),
        Databases(tmp_path / "image_db"),
        joint=True,
    )
    questions = ("Is it red?", "Is it round?", "Is it new?")
    (result,) = agent.answer([message(VerifyImages(gallery.key, (0, 99, 2), questions))])
    assert isinstance(result, CandidatesVerified)
    assert [type(one) for one in result.results] == [Answers, ItemFailure, Answers]
    assert [len(one.p_yes) for one in result.results if isinstance(one, Answers)] == [3, 3]
    assert [request.count for request in asked] == [3, 3]
    assert numbered(questions) in asked[0].prompt.text


def test_a_photograph_is_decoded_once_and_the_model_s_input_is_the_same_bytes(
    checkpoint: Path, derivatives: Path, tmp_path: Path
) -> None:
    # Given a photograph of many more pixels than a tile
    image = photograph(tmp_path / "large.png", 9 * TILE_PX, 7 * TILE_PX)
    processor = AutoProcessor.from_pretrained(checkpoint).image_processor
    counters: Counter[str] = Counter()
    reader = ImageReader(processor, counters)
    # When it is read three times
    read = [reader.read(image, 1) for _ in range(3)]
    # Then it was decoded once,
    assert counters == {"images_decoded": 1, "derivatives_read": 2}
    assert {one.size for one in read} == {(TILE_PX, TILE_PX)}
    # and what the model sees is what it would have seen of the photograph
    whole = Image.open(image.path).convert("RGB")
    expected = processor(images=[whole], return_tensors="pt", crop_to_patches=False)
    for one in read:
        found = processor(images=[one], return_tensors="pt", crop_to_patches=False)
        assert torch.equal(found["pixel_values"], expected["pixel_values"])
    # A damaged derivative is made anew
    (kept,) = derivatives.rglob("*.png")
    kept.write_bytes(b"no image")
    assert np.array_equal(np.array(reader.read(image, 1)), np.array(read[0]))


def test_small_images_and_more_tiles_are_read_whole(
    checkpoint: Path, derivatives: Path, tmp_path: Path
) -> None:
    counters: Counter[str] = Counter()
    reader = ImageReader(AutoProcessor.from_pretrained(checkpoint).image_processor, counters)
    small = photograph(tmp_path / "small.png", TILE_PX + 8, TILE_PX + 4)
    large = photograph(tmp_path / "large.png", 9 * TILE_PX, 7 * TILE_PX)
    assert reader.read(small, 1).size == (TILE_PX + 8, TILE_PX + 4)
    assert reader.read(large, 4).size == (9 * TILE_PX, 7 * TILE_PX)
    assert not derivatives.exists()


def test_a_model_without_a_tile_of_fixed_size_reads_whole_images(
    derivatives: Path, tmp_path: Path
) -> None:
    class AnySize:
        size = MappingProxyType({"shortest_edge": 56, "longest_edge": 1280})
        do_resize = True

    large = photograph(tmp_path / "large.png", 9 * TILE_PX, 7 * TILE_PX)
    assert image_reader.ImageReader(AnySize(), Counter()).read(large, 1).size[0] == 9 * TILE_PX
    assert not derivatives.exists()
