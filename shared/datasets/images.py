"""A data set's images: ids and files below one folder, held without a path object for each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload


class Images(Sequence[tuple[str, Path]]):
    """(image id, path) of every image, in order; the paths are joined when asked for.

    A gallery of 100,000 images costs what its names cost; as paths it would cost five times that.

    Attributes:
        folder: what the files are relative to.
        ids: image ids, in order.
        files: for each image its file below `folder`, with forward slashes.
    """

    __slots__ = ("files", "folder", "ids")

    def __init__(self, folder: Path, ids: Sequence[str], files: Sequence[str]) -> None:
        """Raises: ValueError: not as many ids as files."""
        if len(ids) != len(files):
            raise ValueError(f"{len(ids)} ids for {len(files)} files")
        self.folder = folder
        self.ids = ids
        self.files = files

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, row: int) -> tuple[str, Path]: ...
    @overload
    def __getitem__(self, row: slice) -> Images: ...
    def __getitem__(self, row: int | slice) -> tuple[str, Path] | Images:
        if isinstance(row, slice):
            return Images(self.folder, self.ids[row], self.files[row])
        return self.ids[row], Path(self.folder, self.files[row])

    def __iter__(self) -> Iterator[tuple[str, Path]]:
        for image_id, file in zip(self.ids, self.files, strict=True):
            yield image_id, Path(self.folder, file)

    def locations(self) -> Iterator[tuple[str, str]]:
        """(image id, path as text): several times faster than iterating, where text will do."""
        folder = os.fspath(self.folder)
        for image_id, file in zip(self.ids, self.files, strict=True):
            yield image_id, f"{folder}/{file}"

    def and_also(self, files: Sequence[str]) -> Images:
        """These images and then more files of the same folder, whose names are their ids."""
        if not files:
            return self
        return Images(self.folder, [*self.ids, *files], [*self.files, *files])

    def __repr__(self) -> str:
        return f"Images({len(self)} in {self.folder})"
