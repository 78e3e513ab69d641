"""`xr plan`: what a benchmark would ask of the GPUs, before it is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, TypeVar

import typer
from rich.table import Table

from gateway.commands import output
from gateway.commands.options import JsonOption
from shared.cost_model import GPUS, MODELS, Cost, Workload, costs, gpu_hours, total
from shared.errors import ConfigurationError

Sized = TypeVar("Sized")

_ASSUMPTIONS = (
    "seconds a query are at 100 % of the peak rate of one GPU",
    "mean lengths in tokens: instruction 48, question 20, caption 80, imagination 160",
    "2 operations per weight and token, plus attention; bf16; 128 requests write at the same time",
    "CLIP, ranking and messages are left out: below 1 % of this",
)


def plan(
    queries: Annotated[int, typer.Option(min=1, help="queries of the benchmark")],
    model: Annotated[str, typer.Option(help=" | ".join(MODELS))] = "InternVL3-8B",
    gpu: Annotated[str, typer.Option(help=" | ".join(GPUS))] = "H200",
    gpus: Annotated[int, typer.Option(min=1, help="how many of them")] = 1,
    gallery: Annotated[
        int, typer.Option(min=0, help="images to caption first; 0 = the image database is there")
    ] = 0,
    candidates: Annotated[int, typer.Option(min=0, help="k': candidates verified a query")] = 100,
    questions: Annotated[int, typer.Option(min=0, help="|Q|: propositions a query")] = 3,
    max_tiles: Annotated[int, typer.Option(min=1, help="tiles an image is cut into at most")] = 1,
    verified_share: Annotated[
        float, typer.Option(min=0, max=1, help="of the candidates, where verification stops early")
    ] = 1.0,
    resident_share: Annotated[
        float, typer.Option(min=0, max=1, help="of images and captions, known from earlier queries")
    ] = 0.0,
    cached_share: Annotated[
        float, typer.Option(min=0, max=1, help="of the candidates, answered in earlier runs")
    ] = 0.0,
    shared_prefix: Annotated[
        bool, typer.Option(help="an image is computed once for all questions about it")
    ] = True,
    share_of_peak: Annotated[
        float, typer.Option(min=0.01, max=1, help="of the GPU's peak rate, reached in practice")
    ] = 0.4,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="of one GPU, in your currency")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate tokens, GPU hours and cost of a benchmark, with the assumptions made."""
    size, card = _named(model, MODELS, "model"), _named(gpu, GPUS, "GPU")
    work = Workload(
        queries=queries,
        gallery=gallery,
        candidates=candidates,
        questions=questions,
        max_tiles=max_tiles,
        verified_share=verified_share,
        resident_share=resident_share,
        cached_share=cached_share,
        shared_prefix=shared_prefix,
    )
    parts = costs(work, size, card)
    whole = total(parts)
    hours = gpu_hours(whole, share_of_peak)
    price = None if price_per_hour is None else hours * price_per_hour
    if as_json:
        output.print_json(
            {
                "parts": {name: asdict(cost) for name, cost in parts.items()},
                "total": asdict(whole),
                "gpu_hours": hours,
                "wall_hours": hours / gpus,
                "price": price,
                "share_of_peak": share_of_peak,
                "assumptions": _ASSUMPTIONS,
            }
        )
        return
    output.console.print(_table({**parts, "total": whole}, queries))
    priced = "" if price is None else f", {price:,.2f} to pay"
    output.console.print(
        f"\n{hours:.2f} GPU hours at {share_of_peak:.0%} of the peak of one {gpu}"
        f" ({hours / gpus:.2f} h on {gpus}){priced}",
        soft_wrap=True,
    )
    for assumption in _ASSUMPTIONS:
        output.console.print(f"  {assumption}", style="dim", highlight=False, soft_wrap=True)


def _table(parts: dict[str, Cost], queries: int) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("part")
    for heading in ("requests", "tokens read", "written", "TFLOP", "s a query"):
        table.add_column(heading, justify="right")
    for name, cost in parts.items():
        table.add_row(
            name,
            *(f"{n:,.0f}" for n in (cost.requests, cost.prefilled, cost.decoded, cost.tflop)),
            f"{cost.floor_s / queries:.3f}",
        )
    return table


def _named(given: str, known: Mapping[str, Sized], what: str) -> Sized:
    for name, sized in known.items():
        if name.lower() == given.lower():
            return sized
    raise ConfigurationError(f"unknown {what} {given!r}; known: {', '.join(known)}")
