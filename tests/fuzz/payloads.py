"""Hostile bytes, drawn from a seed: damaged messages, wrong shapes, lengths that lie."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

LYING_LENGTHS = tuple(
    prefix + struct.pack(">I", length)
    for prefix in (b"\xc6", b"\xc9", b"\xdb", b"\xdd", b"\xdf")  # bin, ext, str, array, map
    for length in (0xFFFFFFFF, 0x7FFFFFFF, 50_000_000)
)
DEEP = (b"\x91" * 200_000, b"\x81\xa1a" * 100_000, b"\x92\xc0" * 100_000)
_PLAIN: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2**63, 2**64 - 1, -(2**63), 0.0, float("nan"), float("inf")),
    *("", "x", "\x00", "xr:agents", "é" * 40, "a" * 5_000, b"", b"\xff" * 9, [], {}, [[[]]]),
    {"type": "Failure"},
)


def hostile_payload(rng: random.Random, good: Sequence[bytes]) -> bytes:
    """One payload; made from a good one as a rule, as nonsense is refused too soon."""
    kinds: tuple[Callable[[random.Random, bytes], bytes], ...] = (
        _damaged, _cut_off, _with_wrong_fields, _with_wrong_fields, _lying, _noise, _doubled,
    )  # fmt: skip
    return rng.choice(kinds)(rng, rng.choice(good))


def _damaged(rng: random.Random, good: bytes) -> bytes:
    content = bytearray(good)
    for _ in range(rng.randint(1, 6)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


def _cut_off(rng: random.Random, good: bytes) -> bytes:
    return good[: rng.randrange(len(good))]


def _lying(rng: random.Random, good: bytes) -> bytes:
    place = rng.randrange(len(good))
    return good[:place] + rng.choice((*LYING_LENGTHS, *DEEP)) + good[place:]


def _noise(rng: random.Random, _good: bytes) -> bytes:
    return rng.randbytes(rng.randrange(300))


def _doubled(rng: random.Random, good: bytes) -> bytes:
    return good + good[: rng.randint(1, len(good))]


def _with_wrong_fields(rng: random.Random, good: bytes) -> bytes:
    fields = msgpack.unpackb(good)
    where = fields
    while isinstance(where, dict) and where:
        name = rng.choice(sorted(where))
        if isinstance(where[name], dict) and where[name] and rng.random() < 0.7:
            where = where[name]
        elif rng.random() < 0.2:
            del where[name]
            break
        else:
            where[name] = rng.choice(_PLAIN)
            break
    return bytes(msgpack.packb(fields))
