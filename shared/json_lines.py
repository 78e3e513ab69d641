"""Random access to the rows of a JSON Lines file without holding them in memory."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar, overload

import msgspec
import numpy as np
import numpy.typing as npt

from shared.errors import MALFORMED, DatasetError

Row = TypeVar("Row")

_BLOCK_BYTES = 1 << 20


class JsonLines(Sequence[Row], Generic[Row]):
    """The lines of a file as records of one type, decoded when asked for.

    The file is memory-mapped; what is held is one 8-byte offset per line. A file replaced on disk
    (atomically) while open keeps showing its old content.
    """

    def __init__(self, path: Path, kind: type[Row]) -> None:
        """Map `path`. Raises: DatasetError: missing, unreadable, or not ended by a newline."""
        self._path = path
        self._decoder = msgspec.json.Decoder(kind)
        self._ends, self._bytes = _line_ends(path)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, row: int) -> Row: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[Row]: ...
    def __getitem__(self, row: int | slice) -> Row | Sequence[Row]:
        if isinstance(row, slice):
            return [self[position] for position in range(*row.indices(len(self)))]
        position = row + len(self) if row < 0 else row
        if not 0 <= position < len(self):
            raise IndexError(f"row {row} of {self._path}, which has {len(self)}")
        start = 0 if position == 0 else int(self._ends[position - 1]) + 1
        return self._decode(self._bytes[start : int(self._ends[position])], position)

    def __iter__(self) -> Iterator[Row]:
        start = 0
        for position, end in enumerate(self._ends.tolist()):
            yield self._decode(self._bytes[start:end], position)
            start = end + 1

    def _decode(self, line: bytes, position: int) -> Row:
        try:
            return self._decoder.decode(line)
        except MALFORMED as error:
            raise DatasetError(f"{self._path}, line {position + 1}: {error}") from error


def _line_ends(path: Path) -> tuple[npt.NDArray[np.int64], mmap.mmap | bytes]:
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    found = [
        np.flatnonzero(np.frombuffer(content[start : start + _BLOCK_BYTES], np.uint8) == ord("\n"))
        + start
        for start in range(0, len(content), _BLOCK_BYTES)
    ]
    ends = np.concatenate([np.empty(0, np.int64), *found])
    if len(content) and (not len(ends) or ends[-1] != len(content) - 1):
        raise DatasetError(f"{path} is cut off: its last line has no end")
    return ends, content
