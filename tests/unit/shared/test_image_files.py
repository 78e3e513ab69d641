"""Image files of every hostile kind: each fails alone, for a reason in words, and soon."""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from agents.backends.contract import ImageFile
from agents.backends.images import read_image
from shared.errors import ItemError
from shared.galleries import write_gallery
from shared.image_files import (
    DEFAULT_MAX_PIXELS,
    MAX_BYTES,
    decode_image,
    inspect_image,
    limit_pixels,
    read_content,
)

PHOTOGRAPH = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 48, 3), dtype=np.uint8))


@pytest.fixture(autouse=True)
def _usual_limit() -> Iterator[None]:
    yield
    limit_pixels(DEFAULT_MAX_PIXELS)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def png(width: int, height: int, *chunks: bytes, pixels: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(pixels, 9))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + body + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    bomb = PngImagePlugin.PngInfo()
    bomb.add_text("comment", "a" * 30_000_000, zip=True)
    return saved(PHOTOGRAPH, "PNG", pnginfo=bomb)


def bomb_in_a_tiff() -> bytes:
    content = bytearray(saved(Image.new("1", (64, 64)), "TIFF", compression="tiff_deflate"))
    for tag in (256, 257):  # width, height
        at = content.index(struct.pack("<HH", tag, 3)) + 8
        content[at : at + 4] = struct.pack("<I", 60_000)
    return bytes(content)


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "a bomb of 50,000 x 50,000 pixels": (
        lambda: png(50_000, 50_000, pixels=b"\0" * 50_000), "2500000000 pixels"),
    "a bomb of 12,000 x 12,000 pixels": (
        lambda: png(12_000, 12_000, pixels=b"\0" * 9), "pixels"),
    "sides beyond what fits in memory": (
        lambda: png(2**31 - 1, 2**31 - 1), "pixels"),
    "a bomb in a TIFF": (bomb_in_a_tiff, "pixels"),
    "compressed text of 30 MB": (text_bomb, "too large|cannot be decoded"),
    "a JPEG cut off": (lambda: saved(PHOTOGRAPH, "JPEG")[:900], "truncated"),
    "a PNG cut off": (lambda: saved(PHOTOGRAPH, "PNG")[:900], "decoded"),
    "a WebP cut off": (lambda: saved(PHOTOGRAPH, "WEBP")[:300], "decoded"),
    "a GIF cut off": (lambda: saved(PHOTOGRAPH, "GIF")[:900], "decoded"),
    "an empty file": (lambda: b"", "empty"),
    "text": (lambda: b"this is no image, whatever it is called", "decoded"),
    "PostScript": (
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "decoded"),
    "a PDF": (lambda: saved(PHOTOGRAPH, "PDF"), "decoded"),
    "an icon": (lambda: saved(PHOTOGRAPH, "ICO"), "decoded"),
    "32-bit integers": (
        lambda: saved(Image.fromarray(np.arange(64, dtype=np.int32).reshape(8, 8)), "TIFF"),
        "32-bit"),
    "32-bit fractions": (
        lambda: saved(Image.fromarray(np.ones((8, 8), dtype=np.float32)), "TIFF"), "32-bit"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_hostile_image_fails_alone_and_says_why(tmp_path: Path, kind: str, suffix: str) -> None:
    content, reason = HOSTILE[kind]
    hostile, fine = tmp_path / f"hostile{suffix}", tmp_path / "fine.png"
    hostile.write_bytes(content())
    PHOTOGRAPH.save(fine)
    for read in (inspect_image, lambda path: read_image(ImageFile(Path(path), "0" * 64))):
        with pytest.raises(ItemError, match=reason):
            read(str(hostile))
    gallery = write_gallery(tmp_path / "galleries", [("hostile", hostile), ("fine", fine)])
    assert list(gallery.failures) == [0]
    assert gallery.image_file(1).path == fine


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    refused: list[str] = []

    def read_all() -> None:
        for name in ("pipe", "folder", "device", "gone", "circle"):
            try:
                read_image(ImageFile(tmp_path / f"{name}.jpg", "0" * 64))
            except ItemError as error:
                refused.append(str(error))

    reader = threading.Thread(target=read_all, daemon=True)
    reader.start()
    reader.join(20)
    assert not reader.is_alive(), "reading waits for something"
    assert len(refused) == 5
    for wrong in ("pipe", "folder", "device"):
        assert any(f"{wrong}.jpg: not a regular file" in reason for reason in refused)


def test_a_link_to_what_is_no_image_tells_nothing_of_it(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("root:x:0:0")
    (tmp_path / "image.jpg").symlink_to(secret)
    with pytest.raises(ItemError) as raised:
        read_image(ImageFile(tmp_path / "image.jpg", "0" * 64))
    assert "root" not in str(raised.value).replace(str(tmp_path), "")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # sparse: it takes no room
    with pytest.raises(ItemError, match=f"at most {MAX_BYTES}"):
        read_content(path)


def test_the_limit_of_pixels_is_a_setting_and_holds_for_what_was_read_before(
    tmp_path: Path,
) -> None:
    path = tmp_path / "photograph.png"
    PHOTOGRAPH.save(path)
    assert write_gallery(tmp_path / "galleries", [("a", path)]).failures == {}
    limit_pixels(64 * 48 - 1)
    with pytest.raises(ItemError, match="at most 3071"):
        read_image(ImageFile(path, "0" * 64))
    again = write_gallery(tmp_path / "galleries", [("a", path), ("b", path)])
    assert list(again.failures) == [0, 1]
    assert "48x64; at most 3071" in again.failures[0]


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (PHOTOGRAPH.convert("CMYK"), "JPEG"),
        (PHOTOGRAPH.convert("L"), "PNG"),
        (PHOTOGRAPH.convert("1"), "PNG"),
        (PHOTOGRAPH.convert("LA"), "PNG"),
        (PHOTOGRAPH.convert("RGBA"), "WEBP"),
        (PHOTOGRAPH.convert("P"), "GIF"),
        (PHOTOGRAPH.convert("YCbCr"), "TIFF"),
    ],
)
def test_every_usual_kind_of_pixels_is_read_as_rgb(image: Image.Image, kind: str) -> None:
    read = decode_image(saved(image, kind))
    assert (read.mode, read.size) == ("RGB", PHOTOGRAPH.size)
    assert np.asarray(read).std() > 20, "a blank image"


def test_a_palette_with_transparency_is_read() -> None:
    palette = PHOTOGRAPH.convert("P")
    for transparency in (3, bytes(range(256))):
        content = saved(palette, "PNG", transparency=transparency)
        assert np.asarray(decode_image(content)).std() > 20


def test_of_an_animation_the_first_picture_is_read() -> None:
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    for kind in ("GIF", "PNG", "WEBP"):
        content = saved(red, kind, save_all=True, append_images=[blue] * 3, lossless=True)
        assert decode_image(content).getpixel((4, 4))[0] > 200, kind


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_greys_keep_their_range(kind: str) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    read = np.asarray(decode_image(saved(Image.fromarray(ramp), kind)))[..., 0]
    assert abs(read.astype(int) - np.arange(256).reshape(16, 16)).max() <= 1


def test_a_photograph_is_turned_as_its_camera_says() -> None:
    lying = Image.new("RGB", (20, 10), "red")
    lying.paste("blue", (0, 0, 10, 10))
    for orientation, size, at_the_top in (
        (1, (20, 10), "blue"),
        (6, (10, 20), "blue"),
        (8, (10, 20), "red"),
    ):
        exif = Image.Exif()
        exif[0x0112] = orientation
        read = decode_image(saved(lying, "PNG", exif=exif))
        assert read.size == size
        assert read.getpixel((0, 0)) == Image.new("RGB", (1, 1), at_the_top).getpixel((0, 0))


def test_damaged_exif_data_are_left_aside() -> None:
    damaged = saved(PHOTOGRAPH, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    assert decode_image(damaged).size == PHOTOGRAPH.size


@given(st.data())
def test_a_file_with_damaged_bytes_is_an_image_or_an_item_error(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]))
    content = bytearray(saved(PHOTOGRAPH.resize((12, 12)), kind))
    places = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    for place, byte in data.draw(st.lists(places, max_size=8)):
        content[place] = byte
    del content[data.draw(st.integers(1, len(content))) :]
    try:
        read = decode_image(bytes(content))
    except ItemError as error:
        assert str(error)
    else:
        assert read.mode == "RGB"
