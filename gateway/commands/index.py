"""`xr index`: build, list, check and clear away image databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import msgspec
import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from gateway.commands import output
from gateway.commands.benchmarks import follow
from gateway.commands.index_use import drop_orphans, use
from gateway.commands.options import GatewayOption, JsonOption, connect
from gateway.records import BenchmarkView
from shared.datasets.named_gallery import GALLERY_PREFIX
from shared.datasets.registry import FOLDER_PREFIX, SOURCES
from shared.image_database_check import Finding, check_image_database
from shared.image_database_cleanup import Removal, find_removable, remove
from shared.image_database_inventory import (
    DatabaseEntry,
    Inventory,
    find_database,
    take_inventory,
)
from shared.settings import load_settings

index_app = typer.Typer(
    help="Image databases: captions and embeddings of galleries.", no_args_is_help=True
)

_FINDINGS_SHOWN = 20
_DAY_S = 24 * 3600.0
_KEY_SHOWN = 12


@index_app.command()
def build(
    images: Annotated[
        str, typer.Argument(metavar="DATASET[:SPLIT]|folder:PATH", help="whose gallery")
    ],
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="ask again for the rows that failed")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="read all image files, also those known and unchanged")
    ] = False,
    wait: Annotated[bool, typer.Option(help="follow the build to its end")] = True,
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build an image database through the agents, or what is missing of it."""
    dataset, split = split_of(images)
    with connect(gateway) as client:
        view = client.submit(
            dataset,
            split,
            name="index",
            index_only=True,
            retry_failed=retry_failed,
            read_images_again=verify,
        )
        output.notes.print(f"run {view.id}", highlight=False, soft_wrap=True)
        if wait:
            view = follow(client, view.id)
    _print_build(view, as_json)


index_app.command()(use)


@index_app.command("list")
def list_databases(as_json: JsonOption = False) -> None:
    """Image databases in XR_HOME, last used first."""
    inventory = take_inventory(load_settings())
    if as_json:
        output.print_json(msgspec.to_builtins(inventory))
        return
    output.print_wide(_databases_table(inventory))
    for entry in inventory.databases:
        if entry.problem:
            output.console.print(f"{entry.key}: {escape(entry.problem)}", soft_wrap=True)


@index_app.command()
def verify(
    key: Annotated[
        str | None, typer.Argument(help="a key, or its beginning [default: every finished one]")
    ] = None,
    read_images: Annotated[
        bool, typer.Option("--read-images", help="hash every image, not only those touched since")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check databases: checksums, shapes, rows, and whether the images are still the same.

    Exit status 1 when something is wrong.
    """
    settings = load_settings()
    inventory = take_inventory(settings)
    if key is None:
        chosen = [entry for entry in inventory.databases if entry.state in ("finished", "damaged")]
    else:
        chosen = [find_database(inventory, key)]
    findings: dict[str, list[Finding]] = {}
    for entry in chosen:
        with _image_bar(entry.key) as show:
            findings[entry.key] = list(
                check_image_database(
                    settings.image_db_folder,
                    settings.galleries_folder,
                    entry.key,
                    read_images,
                    show,
                )
            )
    if as_json:
        output.print_json(
            {
                name: {"sound": not found, "findings": [finding._asdict() for finding in found]}
                for name, found in findings.items()
            }
        )
    else:
        _print_findings(findings)
    if any(findings.values()):
        raise typer.Exit(1)


@index_app.command()
def gc(
    unused_days: Annotated[
        float, typer.Option(min=0.0, help="keep what was used within so many days")
    ] = 30.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would go")] = False,
    collections: Annotated[
        bool,
        typer.Option(
            "--collections", help="also Qdrant's collections of databases that are not in XR_HOME"
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove databases and galleries that no run refers to and nobody used lately, and leftovers.

    What is being built, and what was used within the last hour, always stays.
    """
    unused_s = unused_days * _DAY_S
    settings = load_settings()
    found = find_removable(settings, unused_s)
    gone = found if dry_run else [removal for removal in found if remove(removal)]
    dropped = drop_orphans(settings, dry_run) if collections else []
    if as_json:
        output.print_json(
            {
                "dry_run": dry_run,
                "removed": [{**r._asdict(), "path": str(r.path)} for r in gone],
                "size_bytes": sum(removal.size_bytes for removal in gone),
                "collections": dropped,
            }
        )
    else:
        _print_removals(gone, dry_run)
        for name in dropped:
            output.console.print(f"collection {name}: no image database here", highlight=False)


def split_of(images: str) -> tuple[str, str]:
    """ "CIRCO:test" -> ("CIRCO", "test"); without a split "val", or the only one there is."""
    if images.startswith((FOLDER_PREFIX, GALLERY_PREFIX)):
        return images, "all"
    dataset, _, split = images.partition(":")
    source = SOURCES.get(dataset.lower())
    splits = ["val"] if source is None else list(source.official)
    return dataset, split or ("val" if "val" in splits else splits[0])


def _print_build(view: BenchmarkView, as_json: bool) -> None:
    if as_json:
        output.print_json(view.model_dump(mode="json"))
        return
    counts = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in view.counts.items())
    for line in (f"{view.state}: {counts or view.id}", view.note):
        if line:
            output.console.print(line, highlight=False, soft_wrap=True)


def _databases_table(inventory: Inventory) -> Table:
    """Databases as rows; nothing is cut, however narrow the terminal."""
    numbers = ("images", "captions", "failed", "size", "runs")
    names = ("key", "data set", "state", *numbers, "captioner", "CLIP", "index", "last used")
    rows = [_cells(entry) for entry in inventory.databases]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column, name in enumerate(names):
        table.add_column(
            name,
            justify="right" if name in numbers else "left",
            no_wrap=True,
            min_width=max(len(name), *(len(row[column]) for row in rows), 0),
        )
    for row in rows:
        table.add_row(*row)
    return table


def _cells(entry: DatabaseEntry) -> tuple[str, ...]:
    return (
        entry.key[:_KEY_SHOWN],
        ", ".join(entry.datasets) or "-",
        f"{entry.state}, version {entry.retries + 1}" if entry.retries else entry.state,
        *_counts(entry),
        _size(entry.size_bytes),
        str(len(entry.runs)),
        entry.captioner or "-",
        entry.clip or "-",
        entry.index or "-",
        entry.last_used[:16].replace("T", " "),
    )


def _counts(entry: DatabaseEntry) -> tuple[str, str, str]:
    if entry.state != "finished":
        return "-", "-", "-"
    return f"{entry.images:,}", f"{entry.captions:,}", f"{entry.failed_rows:,}"


def _print_findings(findings: dict[str, list[Finding]]) -> None:
    for key, found in findings.items():
        state = f"[red]{len(found):,} problems[/]" if found else "[green]sound[/]"
        output.console.print(f"{key}: {state}", highlight=False)
        for finding in found[:_FINDINGS_SHOWN]:
            line = escape(f"  {finding.where}: {finding.problem}")
            output.console.print(line, highlight=False, soft_wrap=True)
        if len(found) > _FINDINGS_SHOWN:
            more = len(found) - _FINDINGS_SHOWN
            output.console.print(f"  and {more:,} more; --json names all", highlight=False)
    if not findings:
        output.console.print("there is no image database")


def _print_removals(removals: list[Removal], dry_run: bool) -> None:
    for removal in removals:
        line = f"{removal.kind} {removal.path.name} ({_size(removal.size_bytes)}): {removal.reason}"
        output.console.print(escape(line), highlight=False, soft_wrap=True)
    verb = "would be freed" if dry_run else "freed"
    total = sum(removal.size_bytes for removal in removals)
    output.console.print(f"{_size(total)} {verb}", highlight=False)


@contextmanager
def _image_bar(key: str) -> Iterator[Callable[[int, int], None]]:
    with Progress(
        TextColumn(key[:_KEY_SHOWN]),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=output.notes,
    ) as bars:
        bar = bars.add_task("", total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def _size(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
