"""`xr search`: one composed search through the HTTP API, in the terminal."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from gateway.commands import output
from gateway.commands.options import GatewayOption, JsonOption, connect
from gateway.records import Evidence, Hit, SearchRequest, TargetFeedback
from shared.errors import ConfigurationError


def search(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="what should change")],
    gallery: Annotated[str, typer.Option(help="key or name of an indexed gallery")],
    reference: Annotated[
        str | None, typer.Option(help="id of the image to be changed; none = by the text alone")
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, max=1000, help="images shown")] = 10,
    depth: Annotated[
        int | None, typer.Option(min=1, help="candidates verified [default: the profile's]")
    ] = None,
    negative: Annotated[str, typer.Option(help="less of this")] = "",
    like: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="more like this result of an earlier search")
    ] = None,
    conditions: Annotated[
        str,
        typer.Option(
            "--filter", metavar="JSON", help='of the metadata, e.g. {"price": {"lt": 50}}'
        ),
    ] = "{}",
    knob: Annotated[
        list[str] | None, typer.Option(help="a knob as name=value, JSON or text; repeatable")
    ] = None,
    timeout_s: Annotated[float, typer.Option("--timeout", min=1, max=600)] = 60.0,
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the images that show the reference with the change made, and say why."""
    try:
        request = SearchRequest(
            gallery=gallery,
            reference_image_id=reference,
            modification_text=text,
            negative_text=negative,
            k=k,
            depth=depth,
            filter=json.loads(conditions),
            target_feedback=None if like is None else TargetFeedback(image_id=like),
            knobs=output.parse_knobs(knob or []),
            timeout_s=timeout_s,
        )
    except ValueError as error:
        raise ConfigurationError(f"the search cannot be asked so: {error}") from error
    with connect(gateway) as client, output.notes.status("searching"):
        answer = client.search(request)
    if as_json:
        output.print_json(answer.model_dump(mode="json"))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("rank", "from", "image"):
        table.add_column(name, justify="left" if name == "image" else "right", no_wrap=True)
    table.add_column("asked", no_wrap=True)
    table.add_column("caption", overflow="fold")
    for hit in answer.hits:
        table.add_row(
            str(hit.rank),
            "" if hit.coarse_rank is None else str(hit.coarse_rank),
            escape(hit.image_id),
            _marks(answer, hit),
            escape(hit.caption or ""),
        )
    output.console.print(table)
    for number, proposition in enumerate(answer.propositions, start=1):
        expected = "yes" if proposition.expected else "no"
        output.console.print(
            f"{number}. {proposition.question} {expected}",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
    output.console.print(f"{answer.stage}, {answer.seconds:.2f} s", highlight=False)


def _marks(answer: Evidence, hit: Hit) -> str:
    """One sign a proposition: whether image and caption answer as expected."""
    signs = []
    for place, proposition in enumerate(answer.propositions):
        answers = [of[place] for of in (hit.image_answers, hit.caption_answers) if of]
        fitting = [(p_yes >= 0.5) == proposition.expected for p_yes in answers]
        if not fitting:
            signs.append("·")
        else:
            signs.append("[green]✔[/]" if 2 * sum(fitting) >= len(fitting) else "[red]✘[/]")
    return "".join(signs)
