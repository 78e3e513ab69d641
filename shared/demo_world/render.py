"""Renders scenes of the demo world as small RGB images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from shared.demo_world.scene import POSITION_INDEX, Group, Scene

IMAGE_SIZE: Final = 144
CELL: Final = 48

_RGB: Final[Mapping[str, tuple[int, int, int]]] = MappingProxyType(
    {
        "red": (222, 32, 38),
        "green": (40, 160, 52),
        "blue": (40, 78, 224),
        "yellow": (252, 226, 30),
        "orange": (255, 134, 10),
        "purple": (150, 50, 190),
        "turquoise": (40, 208, 204),
        "brown": (122, 72, 34),
        "white": (250, 250, 250),
        "gray": (150, 150, 150),
        "black": (18, 18, 18),
        "pink": (250, 188, 210),
        "beige": (228, 210, 172),
    }
)
_RADII: Final[Mapping[tuple[int, str], float]] = MappingProxyType(
    {
        (1, "small"): 10.0,
        (1, "large"): 20.0,
        (2, "small"): 7.5,
        (2, "large"): 11.5,
        (3, "small"): 6.5,
        (3, "large"): 10.5,
    }
)
_LAYOUTS: Final[Mapping[int, tuple[tuple[tuple[int, int], ...], ...]]] = MappingProxyType(
    {
        1: (((0, 0),),),
        2: (((-10, -8), (10, 8)), ((-10, 8), (10, -8))),
        3: (((0, -10), (-11, 9), (11, 9)), ((0, 10), (-11, -9), (11, -9))),
    }
)
_SCALES: Final = (0.96, 1.0, 1.04)
_OUTLINE: Final = 1.2
_TILE: Final = 64

Plane = NDArray[np.float32]


def _outline(shape: str) -> list[tuple[float, float]]:
    """The corners of a shape of radius 1 around the origin, y pointing down."""
    if shape == "circle":
        return [(math.cos(a / 32 * math.tau), math.sin(a / 32 * math.tau)) for a in range(32)]
    if shape == "square":
        return [(-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)]
    if shape == "triangle":
        return [(0.0, -0.95), (1.0, 0.78), (-1.0, 0.78)]
    if shape == "star":
        corners = []
        for step in range(10):
            radius = 1.05 if step % 2 == 0 else 0.45
            angle = step / 10 * math.tau - math.pi / 2
            corners.append((radius * math.cos(angle), radius * math.sin(angle) + 0.05))
        return corners
    if shape == "cross":
        w, h = 0.33, 0.97
        return [(-w, -h), (w, -h), (w, -w), (h, -w), (h, w), (w, w),
                (w, h), (-w, h), (-w, w), (-h, w), (-h, -w), (-w, -w)]  # fmt: skip
    if shape == "heart":
        corners = []
        for step in range(48):
            t = step / 48 * math.tau
            x = math.sin(t) ** 3
            y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
            corners.append((x, -y / 16 - 0.1))
        return corners
    raise ValueError(f"{shape!r} is no shape")


@lru_cache(maxsize=512)
def _masks(shape: str, radius: float) -> tuple[Plane, Plane]:
    """(coverage with the outline, coverage within it), each (side, side, 1) in 0..1."""
    half = math.ceil(1.1 * (radius + _OUTLINE)) + 1
    planes = []
    for scale in (radius + _OUTLINE, radius - 0.2):
        image = Image.new("L", (16 * half, 16 * half))
        corners = [(8 * (half + scale * x), 8 * (half + scale * y)) for x, y in _outline(shape)]
        ImageDraw.Draw(image).polygon(corners, fill=255)
        coverage = np.asarray(image, np.float32).reshape(2 * half, 8, 2 * half, 8).mean((1, 3))
        planes.append((coverage / np.float32(255))[:, :, None].astype(np.float32))
    return planes[0], planes[1]


@lru_cache(maxsize=8)
def _texture(texture: str, variant: int) -> Plane:
    """How much of the second tone each pixel of a (64, 64, 1) tile takes, 0..1."""
    y, x = np.mgrid[0:_TILE, 0:_TILE].astype(np.float32)
    if texture == "striped":
        along = (x + (y if variant else -y)) / np.float32(math.sqrt(2))
        wave = np.abs((along / np.float32(4.6)) % 1 - np.float32(0.5)) * 4 - 1
        plane = np.clip(wave * np.float32(1.6) + np.float32(0.4), 0, 1)
    elif texture == "dotted":
        step = np.float32(5.0)
        shift = ((y // step) % 2) * (step / 2)
        dx, dy = (x + shift) % step - 2, y % step - 2
        plane = np.clip(np.float32(1.9) - np.hypot(dx, dy), 0, 1)
    else:
        plane = np.zeros((_TILE, _TILE), np.float32)
    tile: Plane = np.asarray(plane[:, :, None], np.float32)
    return tile


@lru_cache(maxsize=4)
def _ramp(direction: int) -> Plane:
    """A linear ramp from -1 to 1, down or across or back, broadcastable to the image."""
    ends = (-1, 1) if direction < 2 else (1, -1)
    ramp: Plane = np.linspace(*ends, IMAGE_SIZE, dtype=np.float32)
    return ramp.reshape((-1, 1, 1) if direction % 2 == 0 else (1, -1, 1))


def _jittered(name: str, draw: NDArray[np.int64], spread: int) -> Plane:
    """The (3,) colour of a name, shifted by at most `spread` per channel, whole numbers."""
    shift = draw % (2 * spread + 1) - spread
    return np.clip(np.asarray(_RGB[name]) + shift, 0, 255).astype(np.float32)


def _draw_group(canvas: Plane, group: Group, draw: NDArray[np.int64]) -> None:
    """Paints one complete group into its cell of the canvas; `draw` holds 24 random integers."""
    count, size = group.count or 1, group.size or "small"
    row, column = divmod(POSITION_INDEX[group.position], 3)
    shape, texture = group.shape or "circle", group.texture or "plain"
    radius = _RADII[count, size] * _SCALES[int(draw[0]) % 3]
    outer, inner = _masks(shape, radius)
    base = _jittered(group.colour or "red", draw[1:4], 10)
    tone = base * np.float32(0.42) if texture == "striped" else np.full(3, 250, np.float32)
    edge = base * np.float32(0.55)
    side = outer.shape[0]
    layouts = _LAYOUTS[count]
    shift_x, shift_y = int(draw[4]) % 5 - 2, int(draw[5]) % 5 - 2
    pattern = _texture(texture, int(draw[6]) % 2)
    for index, (dx, dy) in enumerate(layouts[int(draw[7]) % len(layouts)]):
        spot = draw[8 + 4 * index : 12 + 4 * index]
        x = column * CELL + CELL // 2 + dx + shift_x + int(spot[0]) % 2 - side // 2
        y = row * CELL + CELL // 2 + dy + shift_y + int(spot[1]) % 2 - side // 2
        x, y = min(max(x, 0), IMAGE_SIZE - side), min(max(y, 0), IMAGE_SIZE - side)
        px, py = int(spot[2]) % (_TILE - side), int(spot[3]) % (_TILE - side)
        fill = base + (tone - base) * pattern[py : py + side, px : px + side]
        patch = canvas[y : y + side, x : x + side]
        patch *= 1 - outer
        patch += edge * (outer - inner) + fill * inner


def render(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The scene as a (144, 144, 3) RGB image; place, tone and size vary a little with `rng`."""
    draws = rng.integers(0, 1 << 16, size=(len(scene.groups) + 1, 24))
    first = draws[0]
    base = _jittered(scene.background, first[0:3], 5)
    canvas: Plane = base + np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.float32)
    canvas += _ramp(int(first[3]) % 4) * np.float32(int(first[4]) % 7)
    for group, draw in zip(scene.groups, draws[1:], strict=True):
        _draw_group(canvas, group, draw)
    return np.clip(canvas, 0, 255).astype(np.uint8)
