"""`xr gallery`: named galleries that are changed while they are searched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from gateway.client import Client
from gateway.commands import output
from gateway.commands.benchmarks import follow
from gateway.commands.options import GatewayOption, JsonOption, connect
from gateway.records import GalleryUpdate, GalleryView
from shared.datasets.folder import image_files
from shared.errors import ConfigurationError

gallery_app = typer.Typer(
    help="Named galleries: create, add, replace, remove images, versions.", no_args_is_help=True
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="of a named gallery")]
WaitOption = Annotated[bool, typer.Option(help="follow the update until it can be searched")]
MetadataOption = Annotated[
    Path | None,
    typer.Option(
        "--metadata",
        help='fields to filter by: JSON lines {"image_id": ..., "fields": {...}}',
        exists=True,
        dir_okay=False,
    ),
]
_FILES_AT_ONCE = 1_000


@gallery_app.command()
def create(
    name: NameArgument,
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE...", help="images, or one zip file of them", exists=True),
    ] = None,
    folder: Annotated[
        str, typer.Option(help="a folder on the server, below its data root, instead of files")
    ] = "",
    wait: WaitOption = True,
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a gallery of files of this machine, or of a folder on the server."""
    if bool(images) == bool(folder):
        raise ConfigurationError("give either image files or --folder")
    with connect(gateway) as client:
        if folder:
            view = client.create_gallery(name, folder)
        else:
            view = client.upload_gallery(name, images or [])
        if wait and view.benchmark_id:
            follow(client, view.benchmark_id)
        view = client.gallery(name)
    _print_gallery(view, as_json)


@gallery_app.command()
def add(
    name: NameArgument,
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE...", help="images, folders of images, or one zip file", exists=True
        ),
    ] = None,
    metadata: MetadataOption = None,
    wait: WaitOption = True,
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add images, or replace those of the same ids; an image's id is its file's name.

    In a folder or a zip file it is the path within.
    """
    found = _images_of(images or [])
    fields = None if metadata is None else _fields_of(metadata)
    if not found and not fields:
        raise ConfigurationError("there is nothing to add: give image files or --metadata")
    with connect(gateway) as client:
        if isinstance(found, Path):
            if fields:
                raise ConfigurationError("--metadata goes with files, not with a zip file")
            update = client.put_archive(name, found)
        else:
            update = _put(client, name, found, fields)
        _end(client, update, wait, as_json)


@gallery_app.command()
def replace(
    name: NameArgument,
    image_id: Annotated[str, typer.Argument(metavar="ID", help="of the image that is replaced")],
    image: Annotated[
        Path, typer.Argument(metavar="FILE", help="the new image", exists=True, dir_okay=False)
    ],
    wait: WaitOption = True,
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replace one image, whatever its file is called."""
    with connect(gateway) as client:
        _end(client, client.put_images(name, {image_id: image}), wait, as_json)


@gallery_app.command()
def remove(
    name: NameArgument,
    image_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="image ids")],
    wait: WaitOption = True,
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove images. Versions that have them keep them."""
    with connect(gateway) as client:
        _end(client, client.remove_images(name, image_ids), wait, as_json)


@gallery_app.command()
def refresh(
    name: NameArgument,
    wait: WaitOption = True,
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read the server folder again: bring in what was added, changed and removed."""
    with connect(gateway) as client:
        _end(client, client.refresh_gallery(name), wait, as_json)


@gallery_app.command()
def versions(
    name: NameArgument, gateway: GatewayOption = None, as_json: JsonOption = False
) -> None:
    """Versions of a gallery, the current one first. `gallery:NAME@NUMBER` benchmarks one."""
    with connect(gateway) as client:
        found = client.gallery_versions(name)
    if as_json:
        output.print_json([version.model_dump(mode="json") for version in found])
        return
    rows = [
        (
            f"{version.number}{' *' if version.current else ''}",
            f"{version.images:,}",
            f"+{version.put:,} -{version.removed:,}",
            version.gallery[:12],
            "yes" if version.kept else "no",
            version.made_at[:19].replace("T", " "),
        )
        for version in found
    ]
    output.print_wide(_table(("version", "images", "changed", "key", "kept", "made"), rows))


@gallery_app.command("list")
def list_galleries(gateway: GatewayOption = None, as_json: JsonOption = False) -> None:
    """Galleries that have a name."""
    with connect(gateway) as client:
        found = [view for view in client.galleries() if view.name]
    if as_json:
        output.print_json([view.model_dump(mode="json") for view in found])
        return
    rows = [
        (
            view.name,
            view.state,
            str(view.version or "-"),
            str(view.pending_changes or "-"),
            f"{view.images:,}",
            f"{view.failed_images:,}",
            view.folder or "uploaded",
        )
        for view in found
    ]
    names = ("name", "state", "version", "waiting", "images", "failed", "from")
    output.print_wide(_table(names, rows))


def _put(
    client: Client, name: str, images: dict[str, Path], fields: dict[str, Any] | None
) -> GalleryUpdate:
    """In several requests where there are many; a version may be made of them all."""
    items = list(images.items())
    groups = [dict(items[at : at + _FILES_AT_ONCE]) for at in range(0, len(items), _FILES_AT_ONCE)]
    with output.notes.status("uploading") as line:
        for number, group in enumerate(groups[:-1]):
            client.put_images(name, group)
            line.update(f"uploaded {(number + 1) * _FILES_AT_ONCE:,} of {len(items):,} images")
        return client.put_images(name, groups[-1] if groups else {}, metadata=fields)


def _end(client: Client, update: GalleryUpdate, wait: bool, as_json: bool) -> None:
    """Follow the update where that is wanted, and say what came of it."""
    if update.benchmark_id:
        output.notes.print(f"run {update.benchmark_id}", highlight=False, soft_wrap=True)
    if wait and update.benchmark_id:
        follow(client, update.benchmark_id)
    if as_json:
        view = client.gallery(update.gallery)
        told = {**update.model_dump(mode="json"), "searched_version": view.version}
        output.print_json(told)
        return
    if update.state == "unchanged":
        output.console.print(f"{update.gallery}: nothing has changed", highlight=False)
        return
    changed = f"{update.put} put, {update.removed} removed"
    if update.fields:
        changed += f", fields of {update.fields} set"
    when = "searched from now on" if wait else "on its way"
    output.console.print(
        f"{update.gallery} version {update.version}: {changed}; {when}",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip


def _images_of(given: list[Path]) -> dict[str, Path] | Path:
    """Image id -> file, or the one zip file."""
    if [path.suffix.lower() for path in given] == [".zip"]:
        return given[0]
    found: dict[str, Path] = {}
    for path in given:
        inside = image_files(path) if path.is_dir() else [path.name]
        base = path if path.is_dir() else path.parent
        for file in inside:
            if file in found:
                raise ConfigurationError(f"two files would be image {file!r}: {base / file}")
            found[file] = base / file
    return found


def _fields_of(path: Path) -> dict[str, Any]:
    """The form of a folder's metadata.jsonl."""
    fields: dict[str, Any] = {}
    for number, line in enumerate(path.read_text("utf-8").split("\n"), start=1):
        if line.strip():
            try:
                entry = json.loads(line)
                fields[entry["image_id"]] = entry["fields"]
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigurationError(f"{path}, line {number}: {error!r}") from error
    return fields


def _print_gallery(view: GalleryView, as_json: bool) -> None:
    if as_json:
        output.print_json(view.model_dump(mode="json"))
        return
    line = f"{view.name}: {view.state}, {view.images:,} images, {view.failed_images:,} failed"
    output.console.print(line, highlight=False, markup=False, soft_wrap=True)


def _table(names: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    numbers = ("version", "images", "failed", "waiting")
    for name in names:
        table.add_column(name, justify="right" if name in numbers else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
