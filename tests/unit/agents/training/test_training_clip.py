"""The training of the demo's CLIP."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from agents.backends.contract import ImageFile
from agents.backends.open_clip import load
from agents.training.clip import (
    CONTEXT,
    MEAN,
    STD,
    PairPool,
    build_model,
    draw_pair,
    encode_texts,
    model_config,
    normalised,
    save,
)
from agents.training.vocabulary import ending_tokenizer
from shared.demo_world.language import caption
from shared.demo_world.render import IMAGE_SIZE, render
from shared.demo_world.splits import is_held_out, training_scene


def test_pixels_in_training_are_those_of_the_librarys_preprocessing() -> None:
    scene = training_scene(random.Random(3))
    pixels = render(scene, np.random.default_rng(3))
    preprocess = open_clip.image_transform(
        IMAGE_SIZE, is_train=False, mean=MEAN, std=STD, resize_mode="squash"
    )
    wanted = preprocess(Image.fromarray(pixels))
    assert torch.allclose(normalised(pixels[None])[0], wanted, atol=1e-6)


def test_half_of_the_texts_are_full_captions_and_no_scene_is_held_out() -> None:
    pairs = [draw_pair(random.Random(seed)) for seed in range(400)]
    assert 0.4 < sum(pair.whole for pair in pairs) / len(pairs) < 0.6
    assert all(pair.text == caption(pair.scene) for pair in pairs if pair.whole)
    assert not any(is_held_out(pair.scene) for pair in pairs)


def test_a_pool_draws_every_pair_once_in_an_epoch() -> None:
    pool = PairPool("test", 12)
    drawn = [pair.scene for _ in range(3) for pair in pool.draw(4)[1]]
    assert len(set(drawn)) == 12
    assert set(drawn) == {pair.scene for pair in pool.draw(12)[1]}


def test_cropped_texts_embed_as_the_model_embeds_them_padded(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    torch.manual_seed(0)
    model = build_model(model_config(len(tokenizer), 64, 2, 32)).eval()
    encoded = ending_tokenizer(tokenizer)(
        ["one small red star at top.", "a picture"], padding="max_length", max_length=CONTEXT,
        return_tensors="pt",
    )  # fmt: skip
    ids = encoded["input_ids"]
    with torch.no_grad():
        cropped = encode_texts(model, ids[:, : int(encoded["attention_mask"].sum(1).max())])
        assert torch.allclose(cropped, model.encode_text(ids), atol=1e-5)


def test_a_saved_model_embeds_images_and_texts_through_the_backend(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = model_config((len(tokenizer) + 63) // 64 * 64, 64, 2, 32)
    model = build_model(config).eval()
    save(model, config, ending_tokenizer(tokenizer), tmp_path / "clip")
    scene = training_scene(random.Random(5))
    pixels = render(scene, np.random.default_rng(5))
    path = tmp_path / "scene.png"
    Image.fromarray(pixels).save(path)
    loaded = load(str(tmp_path / "clip"))
    image = ImageFile(path, hashlib.sha256(path.read_bytes()).hexdigest())
    (seen,) = loaded.embed_images([image])
    (read,) = loaded.embed_texts([caption(scene)])
    ids = [*tokenizer.backend_tokenizer.encode(caption(scene)).ids, tokenizer.eos_token_id]
    with torch.no_grad():
        image_vector = torch.nn.functional.normalize(model.encode_image(normalised(pixels[None])))
        text_vector = torch.nn.functional.normalize(encode_texts(model, torch.tensor([ids])))
    assert isinstance(seen, np.ndarray) and isinstance(read, np.ndarray)
    # The folder holds half precision.
    assert np.allclose(seen, image_vector[0].numpy(), atol=5e-3)
    assert np.allclose(read, text_vector[0].numpy(), atol=5e-3)
