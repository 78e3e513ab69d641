"""Takes a gallery that is uploaded: images, or a zip file of them, checked before they are kept."""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, TypeVar

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException

from gateway.access import EVERYBODY
from gateway.errors import ApiError
from shared import atomic_files
from shared.datasets.folder import IMAGE_SUFFIXES
from shared.datasets.registry import FOLDER_PREFIX
from shared.errors import DatasetError, ItemError
from shared.image_files import MAX_BYTES
from shared.named_galleries import check_name, find_named
from shared.reference_images import kind_of
from shared.settings import Settings

UPLOAD_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "examples": ["holidays"]},
        "images": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "archive": {
            "type": "string",
            "format": "binary",
            "description": "a zip file of images, instead of `images`",
        },
    },
}
_MOST_FILES = 100_000
MOST_PARTS = 10_000
_SHOWN = 20


class Member(NamedTuple):
    """One file that came: its name as given, its size as declared, and how to open it."""

    name: str
    size: int
    open: Any


class CheckedImage(NamedTuple):
    """A file that is an image: its name as given, its path within the gallery, what it holds, and
    the suffix of its kind."""

    name: str
    path: PurePosixPath
    content: bytes
    suffix: str


Taken = TypeVar("Taken")


async def receive_gallery(request: Request, settings: Settings) -> tuple[str, Path]:
    """Keep the images of a form in a folder of XR_HOME/uploaded_galleries.

    The folder has a name of its own, so that two uploads at once under one name don't meet: the
    name goes to who claims it first. The same caller's upload with the same `Idempotency-Key` has
    the same folder; once a gallery is made of it, what is sent again is not read. All images are
    kept or none.

    Returns: the gallery's name, and the folder.
     Raises: ApiError: says what is wrong with which file.
    """
    try:
        async with request.form(max_files=MOST_PARTS, max_fields=10) as form:
            name = form.get("name")
            if not isinstance(name, str):
                raise ApiError(422, "invalid-request", "the form has no text field `name`")
            folder = settings.uploaded_galleries_folder / _folder_name(request, name)
            if _is_taken(settings, name, folder):
                return name, folder
            await asyncio.to_thread(
                with_members, form, lambda members: _keep(members, folder, settings)
            )
    except MultiPartException as error:
        raise ApiError(422, "invalid-request", f"the form cannot be read: {error}") from error
    return name, folder


def _folder_name(request: Request, name: str) -> str:
    """The same for what one caller sends again under one key, else a new one."""
    key = request.headers.get("idempotency-key", "")
    if not key:
        return uuid.uuid4().hex
    owner = getattr(request.state, "caller", EVERYBODY).id
    return hashlib.sha256(json.dumps([owner, key, name]).encode()).hexdigest()[:32]


def _is_taken(settings: Settings, name: str, folder: Path) -> bool:
    """Whether the gallery is there, made of this folder.

    Raises: ApiError: it is there, made of something else; or that is no name.
    """
    try:
        check_name(name)
    except DatasetError as error:
        raise ApiError(422, "invalid-name", str(error)) from error
    former = find_named(settings.named_galleries_folder, name)
    if former is not None and former.dataset != f"{FOLDER_PREFIX}{folder}":
        detail = f"there is a gallery {name!r} already: choose another name"
        raise ApiError(409, "name-taken", detail)
    return former is not None


def _member_of(file: UploadFile) -> Member:
    def rewound() -> IO[bytes]:
        file.file.seek(0)
        return file.file

    return Member(file.filename or "", file.size or 0, rewound)


def with_members(form: FormData, take: Callable[[list[Member]], Taken]) -> Taken:
    """What `take` makes of the files of a form: its `images`, or those of the zip file `archive`.

    Raises: ApiError: neither or both of them, or what is no zip file.
    """
    archive = form.get("archive")
    files = [one for one in form.getlist("images") if isinstance(one, UploadFile)]
    if isinstance(archive, UploadFile) == bool(files):
        detail = "the form needs either `images` or a zip file in `archive`"
        raise ApiError(422, "invalid-request", detail)
    if not isinstance(archive, UploadFile):
        return take([_member_of(file) for file in files])
    try:
        with zipfile.ZipFile(archive.file) as opened:
            return take(
                [
                    Member(info.filename, info.file_size, lambda info=info: opened.open(info))
                    for info in opened.infolist()
                    if not info.is_dir() and not _is_litter(info.filename)
                ]
            )
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        # encrypted, an unknown compression, cut off, a checksum that is wrong
        detail = f"the archive cannot be read as a zip file: {error}"
        raise ApiError(422, "invalid-archive", detail) from error


def _is_litter(name: str) -> bool:
    """What file managers leave in archives."""
    parts = PurePosixPath(name).parts
    return "__MACOSX" in parts or (bool(parts) and parts[-1] in (".DS_Store", "Thumbs.db"))


def _keep(members: list[Member], folder: Path, settings: Settings) -> None:
    check_size(members, settings)
    with atomic_files.building_folder(folder) as building:
        refuse(list(_keep_each(members, building, settings)), len(members))


def _keep_each(members: list[Member], building: Path, settings: Settings) -> Iterator[str]:
    """Write what is fine; yields what is wrong with the others."""
    for image in checked_images(members, settings):
        if isinstance(image, str):
            yield image
            continue
        path = building / image.path
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            path = path.with_name(f"{path.name}{image.suffix}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                yield f"{image.name!r}: it comes twice"
                continue
            path.write_bytes(image.content)
        except (FileExistsError, NotADirectoryError) as error:
            yield f"{image.name!r}: {error}"


def check_size(members: list[Member], settings: Settings) -> None:
    """Raises: ApiError: there is no file, or more than is taken at once."""
    if not members:
        raise ApiError(422, "no-images", "there is no file to be kept")
    if len(members) > _MOST_FILES:
        raise ApiError(413, "too-many-files", f"{len(members)} files; at most {_MOST_FILES}")
    if sum(member.size for member in members) > settings.max_upload_mb * 1_000_000:
        raise ApiError(413, "upload-too-large", f"unpacked more than {settings.max_upload_mb} MB")


def refuse(refused: list[str], members: int) -> None:
    """Raises: ApiError: some of the files are no images."""
    if refused:
        raise ApiError(
            422,
            "no-images",
            f"{len(refused)} of {members} files are refused, so none was kept; "
            f"the first: {refused[0]}",
            refused=refused[:_SHOWN],
        )


def checked_images(members: list[Member], settings: Settings) -> Iterator[CheckedImage | str]:
    """Each file as an image, or what is wrong with it. Sizes are counted, not believed.

    Raises: ApiError: all together are more than is taken at once.
    """
    left = settings.max_upload_mb * 1_000_000
    for member in members:
        try:
            path = _safe_name(member.name)
            with member.open() as source:
                content = source.read(min(MAX_BYTES, left) + 1)
            left -= len(content)
            if left < 0:
                raise ApiError(413, "upload-too-large", "more than is taken at once, unpacked")
            if len(content) > MAX_BYTES:
                raise ItemError(f"at most {MAX_BYTES} bytes are read")
            suffix = f".{kind_of(content).media_type.rpartition('/')[2]}"
            yield CheckedImage(member.name, path, content, suffix)
        except ItemError as error:
            yield f"{member.name!r}: {error}"
        except OSError as error:
            if error.errno is not None:
                raise
            yield f"{member.name!r}: {error}"


def _safe_name(name: str) -> PurePosixPath:
    """The path within the gallery. Raises: ItemError: it leads elsewhere, or is no name."""
    path = PurePosixPath(name.replace("\\", "/"))
    parts = path.parts
    if not parts or path.is_absolute() or ".." in parts or ":" in parts[0]:
        raise ItemError("its name leads out of the gallery")
    if any(part.startswith(".") for part in parts):
        raise ItemError("its name begins with a dot")
    if len(name) > 500 or any(len(part.encode()) > 200 for part in parts):
        raise ItemError("its name is too long")
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        raise ItemError("its name has control characters")
    return path
