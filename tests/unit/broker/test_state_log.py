"""The state log: what a kill may leave behind, and what is corruption."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from broker.state_log import StateLog, frame
from shared.errors import PermanentError

PAYLOADS = [b"first", b"", b"\xf7XRs looks like a marker", b"x" * 300]


def _write(path: Path, payloads: list[bytes]) -> None:
    path.write_bytes(b"".join(frame(payload) for payload in payloads))


async def test_a_file_cut_at_any_byte_opens_with_every_whole_record(tmp_path: Path) -> None:
    path = tmp_path / "states.log"
    _write(path, PAYLOADS)
    content = path.read_bytes()
    ends = [sum(len(frame(p)) for p in PAYLOADS[: n + 1]) for n in range(len(PAYLOADS))]

    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        log = StateLog(path)
        whole = sum(end <= size for end in ends)
        assert [log.read(place) for place in log.places] == PAYLOADS[:whole]

        await log.append(b"after")
        await log.close()
        reopened = StateLog(path)
        assert [reopened.read(place) for place in reopened.places] == [*PAYLOADS[:whole], b"after"]
        await reopened.close()


@pytest.mark.parametrize("tail", [b"\0" * 40, b"\xf7XRs" * 5, os.urandom(30)])
async def test_garbage_behind_the_last_record_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "states.log"
    _write(path, PAYLOADS)
    with path.open("ab") as file:
        file.write(tail)

    log = StateLog(path)

    assert [log.read(place) for place in log.places] == PAYLOADS
    assert path.stat().st_size == sum(len(frame(p)) for p in PAYLOADS)
    await log.close()


def test_a_flipped_bit_before_the_last_record_is_an_error_naming_the_place(tmp_path: Path) -> None:
    path = tmp_path / "states.log"
    _write(path, PAYLOADS)
    content = path.read_bytes()
    for position in range(len(frame(PAYLOADS[0]))):
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        )
        with pytest.raises(PermanentError, match="corrupt at byte 0"):
            StateLog(path)
        assert path.stat().st_size == len(content), "a corrupt file must be left as it is"


async def test_records_appended_at_once_are_all_written_with_few_fsyncs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsyncs: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (fsyncs.append(fd), real(fd)))
    log = StateLog(tmp_path / "states.log")
    assert len(fsyncs) == 1, "the new file's name in its folder"
    fsyncs.clear()
    payloads = [str(n).encode() for n in range(100)]

    await asyncio.gather(*(log.append(payload) for payload in payloads))
    await log.close()

    reopened = StateLog(tmp_path / "states.log")
    assert [reopened.read(place) for place in reopened.places] == payloads
    assert len(fsyncs) <= 2
    await reopened.close()


async def test_a_full_disk_is_reported_to_everyone_who_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = StateLog(tmp_path / "states.log")

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    results = await asyncio.gather(*(log.append(b"x") for _ in range(3)), return_exceptions=True)

    assert [type(result) for result in results] == [OSError] * 3
    with pytest.raises(OSError, match="no space"):
        await log.append(b"y")
    await log.close()
