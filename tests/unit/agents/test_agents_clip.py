"""The CLIP backend on a tiny random checkpoint in a folder of its own."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from agents.backends import open_clip as backend
from agents.backends.contract import ImageFile
from agents.backends.open_clip import ClipModel, load
from shared.errors import ConfigurationError, ItemError
from tests.unit.agents.scenes import image_files
from tests.unit.agents.tiny_checkpoints import write_clip_checkpoint

TEXTS = [f"a {colour} {shape}" for colour in ("red", "blue") for shape in ("square", "circle")]
TEXTS += ["a red square and a blue circle . " * 5, "", "unknown words"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_clip_checkpoint(tmp_path_factory.mktemp("checkpoints") / "clip")


@pytest.fixture(scope="module")
def clip(folder: Path) -> ClipModel:
    return load(str(folder), device="cpu", rows=4)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[ImageFile]:
    return image_files(tmp_path_factory.mktemp("images"), 7)


def as_bytes(vectors: list[np.ndarray | ItemError]) -> list[bytes]:
    assert not any(isinstance(vector, ItemError) for vector in vectors)
    return [vector.tobytes() for vector in vectors if not isinstance(vector, ItemError)]


def test_embeddings_are_those_of_open_clip_and_of_unit_length(
    clip: ClipModel, folder: Path, images: list[ImageFile]
) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.no_grad():
        pixels = torch.stack([preprocess(Image.open(image.path)) for image in images])
        expected_images = model.eval().encode_image(pixels, normalize=True).numpy()
        expected_texts = model.encode_text(tokenizer(TEXTS), normalize=True).numpy()
    found_images, found_texts = clip.embed_images(images), clip.embed_texts(TEXTS)
    expected = [*expected_images, *expected_texts]
    for vector, plain in zip([*found_images, *found_texts], expected, strict=True):
        assert isinstance(vector, np.ndarray)
        np.testing.assert_allclose(vector, plain, atol=1e-5)
        assert vector.dtype == np.float32
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_embeddings_have_the_same_bits_in_any_batch(
    clip: ClipModel, images: list[ImageFile], size: int
) -> None:
    order = list(range(7))
    random.Random(size).shuffle(order)
    of_images, of_texts = as_bytes(clip.embed_images(images)), as_bytes(clip.embed_texts(TEXTS))
    for start in range(0, 7, size):
        places = order[start : start + size]
        again = as_bytes(clip.embed_images([images[place] for place in places]))
        assert again == [of_images[place] for place in places]
        again = as_bytes(clip.embed_texts([TEXTS[place] for place in places]))
        assert again == [of_texts[place] for place in places]


def test_a_broken_image_fails_alone(
    clip: ClipModel, images: list[ImageFile], tmp_path: Path
) -> None:
    absent = ImageFile(tmp_path / "absent.png", "0" * 64)
    first, broken, last = clip.embed_images([images[0], absent, images[1]])
    assert isinstance(broken, ItemError)
    assert as_bytes([first, last]) == as_bytes(clip.embed_images(images[:2]))


def test_nothing_asked_is_nothing_answered(clip: ClipModel) -> None:
    assert clip.embed_images([]) == []
    assert clip.embed_texts([]) == []


def test_a_folder_without_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if path.suffix == ".json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ConfigurationError, match="can't be loaded"):
        load(str(tmp_path), device="cpu")


def test_other_weights_have_another_identity(clip: ClipModel, tmp_path: Path) -> None:
    other = load(str(write_clip_checkpoint(tmp_path / "clip", seed=1)), device="cpu")
    assert other.describe()["checkpoint"] == clip.describe()["checkpoint"]
    assert other.describe()["digest"] != clip.describe()["digest"]


@pytest.mark.parametrize(
    ("checkpoint", "revision", "name", "tag"),
    [
        ("ViT-B-32/laion2b_s34b_b79k", "", "ViT-B-32", "laion2b_s34b_b79k"),
        ("ViT-B-32/openai", "openai", "ViT-B-32", "openai"),
        ("ViT-B-32", "openai", "ViT-B-32", "openai"),
        ("hf-hub:laion/CLIP-ViT-L-14", "", "hf-hub:laion/CLIP-ViT-L-14", ""),
    ],
)
def test_a_checkpoint_is_found_by_any_of_its_names(
    checkpoint: str, revision: str, name: str, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None]] = []

    def create(name: str, *, pretrained: str | None, **_: object) -> None:
        asked.append((name, pretrained))
        raise OSError("no network here")

    monkeypatch.setattr(backend.open_clip, "create_model_and_transforms", create)
    with pytest.raises(ConfigurationError, match="no network here"):
        load(checkpoint, revision, device="cpu")
    assert asked == [(name, tag or None)]


def test_two_different_tags_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="give one"):
        load("ViT-B-32/openai", "laion2b_s34b_b79k", device="cpu")


def test_no_more_images_are_read_ahead_than_three_blocks(
    clip: ClipModel, images: list[ImageFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[ImageFile] = []
    ahead: list[int] = []
    original = ClipModel._pixels

    def counted(self: ClipModel, image: ImageFile) -> object:
        read.append(image)
        return original(self, image)

    monkeypatch.setattr(ClipModel, "_pixels", counted)
    for number, block in enumerate(clip._blocks(images * 10)):
        ahead.append(len(read) - 4 * number - len(block))
    assert len(read) == 70
    assert max(ahead) <= 8, "two blocks of 4"
