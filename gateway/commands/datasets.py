"""`xr datasets`: which data sets are known, and what of them lies on this machine."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from gateway.commands import output
from gateway.commands.options import JsonOption
from shared import atomic_files
from shared.datasets import demo, known_datasets
from shared.datasets.inspection import SplitReport, inspect_dataset
from shared.datasets.registry import SOURCES
from shared.errors import ConfigurationError
from shared.settings import load_settings

datasets_app = typer.Typer(help="Known data sets, and those on this machine.", no_args_is_help=True)

_COLOURS = {"ok": "green", "wrong": "red", "absent": "dim"}


@datasets_app.command("list")
def list_datasets(as_json: JsonOption = False) -> None:
    """List the known data sets: their splits, official counts and protocols."""
    rows = [
        {
            "dataset": source.name,
            "split": split,
            "queries": counts.queries,
            "gallery": counts.gallery,
            "protocol": source.protocol.describe(),
        }
        for source in SOURCES.values()
        for split, counts in source.official.items()
    ]
    if as_json:
        output.print_json(rows)
        return
    table = _table("data set", "split", "queries", "gallery", "protocol")
    for row in rows:
        table.add_row(*(f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()))
    output.print_wide(table)
    own = ", ".join(sorted(set(known_datasets()) - set(SOURCES)))
    output.console.print(f"of any size: {own}", highlight=False, soft_wrap=True)


@datasets_app.command()
def check(
    name: Annotated[
        str | None, typer.Argument(help="one data set, or folder:PATH [default: all known]")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="folder of the data sets [default: XR_DATA_ROOT]")
    ] = None,
    images: Annotated[
        bool, typer.Option("--images", help="read and decode every image; slow for large sets")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(help="file for missing and unreadable images [default: in XR_HOME]"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare what is there with the official counts, and name what is missing or broken.

    Exit status 1 when something that is there is wrong, or a data set asked for is absent.
    """
    settings = load_settings()
    root = data_root or settings.data_root
    if not root.is_dir():
        raise ConfigurationError(
            f"{root} is no folder; name the data root with --data-root or XR_DATA_ROOT"
        )
    names = [name] if name else [*SOURCES, demo.NAME]
    reports = _inspect(names, root, images)
    listing = report or settings.home / "image_problems.jsonl"
    listed = _write_image_problems(listing, reports)
    if as_json:
        _print_json(root, reports, listing if listed else None)
    else:
        _print_table(root, reports)
        if listed:
            output.console.print(
                f"{listed:,} missing or unreadable images are listed in {listing}",
                highlight=False, soft_wrap=True,
            )  # fmt: skip
    states = {split.state for split in reports}
    if "wrong" in states or states == {"absent"}:
        raise typer.Exit(1)


def _inspect(names: list[str], root: Path, images: bool) -> list[SplitReport]:
    reports: list[SplitReport] = []
    with output.notes.status("") as line:

        def show(name: str, done: int, total: int) -> None:
            line.update(f"{name}: {done:,} of {total:,} images")

        for name in names:
            reports += inspect_dataset(name, root, images, partial(show, name))
    return reports


def _write_image_problems(path: Path, reports: list[SplitReport]) -> int:
    """One line per missing or unreadable image; returns how many. Without any, no file."""
    rows = [
        {"dataset": split.dataset, "split": split.split, **problem._asdict()}
        for split in reports
        for problem in split.image_problems
    ]
    if rows:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_files.write_jsonl(path, rows)
    return len(rows)


def _print_json(root: Path, reports: list[SplitReport], listing: Path | None) -> None:
    output.print_json(
        {
            "data_root": str(root),
            "splits": [
                {
                    key: value
                    for key, value in msgspec.to_builtins(split).items()
                    if key != "image_problems"
                }
                for split in reports
            ],
            "image_problems_file": None if listing is None else str(listing),
        }
    )


def _print_table(root: Path, reports: list[SplitReport]) -> None:
    table = _table(
        "data set", "split", "queries", "gallery", "images", "protocol in force", "state"
    )
    for split in reports:
        colour = _COLOURS[split.state]
        table.add_row(
            split.dataset,
            split.split,
            _found_of(split.queries, split.expected_queries),
            _found_of(split.gallery, split.expected_gallery),
            _images(split),
            split.protocol,
            f"[{colour}]{split.state}[/]",
        )
    output.console.print(f"data root {root}", highlight=False, soft_wrap=True)
    output.print_wide(table)
    for split in reports:
        remarks = [*split.problems, *split.notes]
        if split.empty_texts:
            remarks.append(f"queries without text, as in the files: {split.empty_texts}")
        for remark in remarks:
            place = f"{split.dataset} {split.split}"
            output.console.print(f"{place}: {escape(remark)}", highlight=False, soft_wrap=True)


def _found_of(found: int | None, expected: int | None) -> str:
    shown = "-" if found is None else f"{found:,}"
    return shown if expected is None else f"{shown} / {expected:,}"


def _images(split: SplitReport) -> str:
    if split.state == "absent":
        return "-"
    if not split.images:
        return "absent"
    bad = [
        f"{count:,} {what}"
        for count, what in ((split.missing, "missing"), (split.unreadable, "unreadable"))
        if count
    ]
    return ", ".join([f"{split.images:,} there", *bad])


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        numbers = column in ("queries", "gallery", "images")
        table.add_column(
            column,
            justify="right" if numbers else "left",
            no_wrap=not column.startswith("protocol"),  # the only long one
        )
    return table
