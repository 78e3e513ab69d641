"""`xr index use`: choose what an image database is ranked by, fill it, and measure its recall."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gateway.commands import output
from gateway.commands.options import JsonOption
from shared.errors import ConfigurationError, PermanentError, TransientError
from shared.image_database import ImageDatabase, open_image_database
from shared.image_database_inventory import find_database, take_inventory
from shared.index_choice import (
    EXACT,
    IndexChoice,
    IndexKind,
    QdrantOptions,
    Quantization,
    read_choice,
    write_choice,
)
from shared.index_recall import measure_recall
from shared.qdrant_filling import (
    collection_name,
    collection_names,
    drop_collection,
    fill_collection,
)
from shared.qdrant_index import QdrantIndex, connect_qdrant
from shared.settings import Settings, load_settings

_EXPECTED_RECALL = 0.99


def use(
    key: Annotated[str, typer.Argument(help="an image database's key, or its beginning")],
    kind: Annotated[IndexKind, typer.Argument(help="what ranks it")],
    quantization: Annotated[
        Quantization | None, typer.Option(help="of the vectors Qdrant searches [default: scalar]")
    ] = None,
    oversampling: Annotated[
        float | None,
        typer.Option(help="candidates per row asked for, scored exactly [default: 2]"),
    ] = None,
    hnsw_ef: Annotated[
        int | None, typer.Option(help="neighbours followed at once while searching")
    ] = None,
    m: Annotated[int | None, typer.Option(help="links per node of the graph")] = None,
    ef_construct: Annotated[
        int | None, typer.Option(help="neighbours compared while the graph is built")
    ] = None,
    on_disk: Annotated[
        bool | None,
        typer.Option("--on-disk/--in-memory", help="where full vectors are [default: on disk]"),
    ] = None,
    shard_number: Annotated[int | None, typer.Option(help="shards, on a cluster")] = None,
    replication_factor: Annotated[int | None, typer.Option(help="copies of each shard")] = None,
    queries: Annotated[
        int, typer.Option(min=1, help="sampled to measure recall against exact ranking")
    ] = 64,
    as_json: JsonOption = False,
) -> None:
    """Choose the index of an image database: exact, or Qdrant for what one machine cannot hold.

    Qdrant is filled from the database in XR_HOME (again from where it stopped, if it was stopped),
    its recall is measured, and running agents use it from then on; until then they rank exactly.
    Options that are not given stay as they were.
    """
    settings = load_settings()
    entry = find_database(take_inventory(settings), key)
    database = open_image_database(settings.image_db_folder, entry.key)
    given = {
        "quantization": quantization,
        "oversampling": oversampling,
        "hnsw_ef": hnsw_ef,
        "m": m,
        "ef_construct": ef_construct,
        "on_disk": on_disk,
        "shard_number": shard_number,
        "replication_factor": replication_factor,
    }
    if kind == "exact":
        choice = _use_exact(settings, database)
    else:
        options = _options(read_choice(database.folder), given)
        choice = _use_qdrant(settings, database, options, queries)
    if as_json:
        output.print_json({"key": entry.key, **msgspec.to_builtins(choice)})
    else:
        _print_choice(entry.key, choice)


def drop_orphans(settings: Settings, dry_run: bool) -> list[str]:
    """Qdrant's collections of image databases that are not in XR_HOME; without `dry_run` they go.

    Raises: ConfigurationError: Qdrant is not set up. TransientError: it cannot be reached.
    """
    client = connect_qdrant(settings)
    folder = settings.image_db_folder
    kept = {collection_name(path.name) for path in folder.iterdir()} if folder.is_dir() else set()
    orphans = [name for name in collection_names(client) if name not in kept]
    if not dry_run:
        for name in orphans:
            drop_collection(client, name)
    return orphans


def _use_exact(settings: Settings, database: ImageDatabase) -> IndexChoice:
    before = read_choice(database.folder)
    write_choice(database.folder, EXACT)
    if before.kind == "qdrant":
        try:
            drop_collection(connect_qdrant(settings), before.collection)
        except (TransientError, PermanentError) as error:
            left = f"collection {before.collection} stays in Qdrant: {error}"
            output.notes.print(f"[yellow]{escape(left)}[/]", soft_wrap=True)
    return EXACT


def _options(before: IndexChoice, given: dict[str, Any]) -> QdrantOptions:
    """Raises: ConfigurationError: a value is out of range."""
    changed = {name: value for name, value in given.items() if value is not None}
    try:
        return QdrantOptions(**{**msgspec.structs.asdict(before.qdrant), **changed})
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def _use_qdrant(
    settings: Settings, database: ImageDatabase, options: QdrantOptions, queries: int
) -> IndexChoice:
    client = connect_qdrant(settings)
    with _row_bar("rows") as show:
        choice = fill_collection(client, database, options, show)
    index = QdrantIndex(client, choice, database, database.key)
    recall = measure_recall(index, database, queries)
    choice = msgspec.structs.replace(choice, recall=recall)
    write_choice(database.folder, choice)
    return choice


def _print_choice(key: str, choice: IndexChoice) -> None:
    output.console.print(f"{key}: {choice.summary()}", highlight=False, soft_wrap=True)
    recall = choice.recall
    if recall is None:
        return
    output.console.print(
        f"recall@{recall.k} against exact ranking, {recall.queries} sampled queries:"
        f" visual {recall.visual:.4f}, textual {recall.textual:.4f}, hybrid {recall.hybrid:.4f};"
        f" {recall.times_exact:.2f} x the time of exact ranking",
        highlight=False,
        soft_wrap=True,
    )
    if recall.lowest < _EXPECTED_RECALL:
        output.notes.print(
            f"[yellow]below {_EXPECTED_RECALL}: a higher --hnsw-ef or --oversampling finds more, at"
            " once; so does a larger --m, after the graph is built anew[/]",
            soft_wrap=True,
        )


@contextmanager
def _row_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    with Progress(
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=output.notes,
    ) as bars:
        bar = bars.add_task("", total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)
