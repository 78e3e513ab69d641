"""Finding and reading a data set's files; errors name the file, the line, the places tried."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from shared.errors import DatasetError

Record = TypeVar("Record")

_BOM = b"\xef\xbb\xbf"
_AT_ENTRY = re.compile(r"at `\$\[(\d+)\]")
_AT_BYTE = re.compile(r"\(byte (\d+)\)")


class MissingFilesError(DatasetError):
    """Files of a data set are not there; the message says which, and every place tried."""


class ImagesAbsentError(MissingFilesError):
    """What is missing comes with the images, and none of these are there."""


def dataset_folder(data_root: Path, name: str) -> Path:
    """The data set's folder below the data root; another spelling by case is found, too."""
    if not (data_root / name).is_dir() and data_root.is_dir():
        for child in sorted(data_root.iterdir()):
            if child.name.lower() == name.lower() and child.is_dir():
                return child
    return data_root / name


def first_file(what: str, candidates: Sequence[Path]) -> Path:
    """The first of these files that is there.

    Raises: MissingFilesError: none is; names `what` and all of them.
    """
    for path in candidates:
        if path.is_file():
            return path
    raise MissingFilesError(f"{what} is missing; looked for {listed(candidates)}")


def folder_holding(files: Sequence[str], candidates: Sequence[Path]) -> Path:
    """The first folder that has one of some of the files; else the first that is there at all.

    When there is none, the first candidate: images are looked for (and reported missing) there.
    """
    few = files[:: max(1, len(files) // 16)]
    for folder in candidates:
        if folder.is_dir() and any((folder / file).is_file() for file in few):
            return folder
    return next((folder for folder in candidates if folder.is_dir()), candidates[0])


def listed(paths: Iterable[Path]) -> str:
    """The paths for an error message: each folder once, "{a,b}" for several names in it."""
    names: dict[str, list[str]] = {}
    for path in paths:
        names.setdefault(str(path.parent), []).append(path.name)
    return ", ".join(
        f"{parent}/{found[0] if len(found) == 1 else '{' + ','.join(found) + '}'}"
        for parent, found in names.items()
    )


def read_text_file(path: Path) -> bytes:
    """The bytes of a UTF-8 file, without a byte order mark.

    Raises: DatasetError: it cannot be read, or is not UTF-8 (and in which line).
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise MissingFilesError(f"{path} is missing") from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    content = content.removeprefix(_BOM)
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path}, line {_line_of(content, error.start)}: not UTF-8"
            f" (byte 0x{content[error.start]:02x}); save the file as UTF-8"
        ) from error
    return content


def read_json(path: Path, kind: type[Record]) -> Record:
    """The JSON document of a file as records of one type; fields unknown to it are ignored.

    Raises: DatasetError: names the line where the JSON breaks, or the JSON path of the value that
        has the wrong type, and the line on which the entry of the list begins that it stands in.
    """
    content = read_text_file(path)
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        place = _place_of(error, content)
        where = "" if place is None else f", line {_line_of(content, place)}"
        raise DatasetError(f"{path}{where}: {error}") from error


def read_json_lines(path: Path, kind: type[Record]) -> Iterator[tuple[int, Record]]:
    """(1-based line number, record) of every line that is not blank.

    Raises: DatasetError: no such file, or a line that is not such a record.
    """
    decoder = msgspec.json.Decoder(kind)
    for number, line in enumerate(read_text_file(path).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, decoder.decode(line)
        except (msgspec.DecodeError, RecursionError) as error:
            raise DatasetError(f"{path}, line {number}: {error}") from error


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(1-based line on which it ends, cells by column) of every row below the heading.

    Raises: DatasetError: one of `columns` is no column, or a row does not fit the heading.
    """
    text = io.StringIO(read_text_file(path).decode(), newline="")
    reader = csv.DictReader(text, strict=True)
    try:
        heading = [name or "" for name in reader.fieldnames or ()]
        missing = [name for name in columns if name not in heading]
        if missing:
            shown = ", ".join(heading)[:200] or "nothing"
            raise DatasetError(
                f"{path}, line 1: no column {' and no column '.join(missing)}; the heading of"
                f" this csv file has to name it, but holds {shown}"
            )
        for row in reader:
            if None in row or None in row.values():
                problem = "more" if None in row else "fewer"
                raise DatasetError(f"{path}, line {reader.line_num}: {problem} cells than columns")
            yield reader.line_num, row
    except csv.Error as error:
        # The inner reader counts the lines of a row that it could not finish, too.
        raise DatasetError(f"{path}, line {reader.reader.line_num}: not csv: {error}") from error


def inside(file: str, where: str) -> str:
    """A path that stays below the folder it is relative to, without a leading "./".

    Raises: DatasetError: it is absolute, climbs up or is empty; `where` says where it stands.
    """
    if not file or file.startswith("/") or "\0" in file or ".." in file.split("/"):
        raise DatasetError(f"{where}: {file!r} lies outside the folder of the data set")
    return file.removeprefix("./")


def _place_of(error: Exception, content: bytes) -> int | None:
    """The byte an error of the JSON decoder is about, None when it does not tell."""
    if "truncated" in str(error):
        return len(content)
    if found := _AT_BYTE.search(str(error)):
        return int(found[1])
    if not (found := _AT_ENTRY.search(str(error))):
        return None
    try:
        entries = msgspec.json.decode(content, type=list[msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):  # further on it is no JSON either
        return None
    place = 0
    for entry in map(bytes, entries[: int(found[1])]):
        place = content.index(entry, place) + len(entry)
    return content.index(bytes(entries[int(found[1])]), place)


def _line_of(content: bytes, place: int) -> int:
    return content.count(b"\n", 0, place) + 1
