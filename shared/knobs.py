"""Every parameter of a run, defined once: type, bounds, default and help of each.

The schema of the HTTP API, the options of `xr bench`, the `[knobs]` section of a profile and the
table in docs/settings.md are all made from the fields of `Knobs` (see `knob_descriptions`).
"""

from __future__ import annotations

import difflib
import functools
import itertools
import math
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from shared.contracts.skills import ListKind, ListRequest
from shared.errors import ConfigurationError

Stage = Literal["coarse", "verify", "compare"]
TextSet = Literal["v1", "v2", "aug", "text"]
FusedKind = Literal["visual", "textual", "hybrid"]

DEFAULT_SEED, DEFAULT_DEPTH = 42, 100
BASELINES: tuple[ListKind, ...] = ("image_only", "text_only", "image_text_sum")


class Knobs(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a run. What a field means and may be stands in its annotation."""

    stages: Annotated[
        tuple[Stage, ...], Meta(description="which stages run: coarse, then verify, then compare")
    ] = ("coarse", "verify")
    retrieve_texts: Annotated[
        tuple[TextSet, ...],
        Meta(
            description="the text sets that retrieve: v1 = what is imagined from text, v2 = what is"
            " imagined from pixels, aug = both, text = the modification text itself"
        ),
    ] = ("v1", "v2", "aug")
    list_kinds: Annotated[
        tuple[FusedKind, ...],
        Meta(
            description="what a text set is compared with: images, captions or both; the fused"
            " lists are the product of text sets and kinds"
        ),
    ] = ("hybrid",)
    fusion: Annotated[
        Literal["rrf", "sum", "interleave", "none"],
        Meta(description="how the lists become one; none takes a single list"),
    ] = "rrf"
    rrf_k: Annotated[
        int, Meta(ge=1, le=100_000, description="k of reciprocal rank fusion, 1 / (k + rank)")
    ] = 60
    head_source: Annotated[
        Literal["fused", "v1", "v2", "aug", "text"],
        Meta(description="which ranking feeds verification: fused, or the first list of a set"),
    ] = "fused"
    text_weight: Annotated[
        float,
        Meta(ge=0.0, le=1.0, description="λ, the weight of captions beside images in hybrid lists"),
    ] = 0.15
    num_questions: Annotated[
        int, Meta(ge=1, le=20, description="|Q|, propositions per query at most")
    ] = 3
    verify_mode: Annotated[
        Literal["both", "visual", "textual"],
        Meta(description="what of a candidate is checked: its image, its caption, or both"),
    ] = "both"
    visual_weight: Annotated[
        float, Meta(ge=0.0, le=1.0, description="weight of answers about images")
    ] = 0.5
    textual_weight: Annotated[
        float, Meta(ge=0.0, le=1.0, description="weight of answers about captions")
    ] = 0.5
    scoring: Annotated[
        Literal["hard", "soft"],
        Meta(description="hard counts satisfied propositions, soft adds their probabilities"),
    ] = "hard"
    top_k: Annotated[
        int, Meta(ge=1, le=100_000, description="k', how many candidates are verified")
    ] = 100
    rank_depth: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="how many images each list returns; not given, as many as top_k if more",
        ),
    ] = DEFAULT_DEPTH
    verify_depth: Annotated[
        Annotated[int, Meta(ge=1, le=100_000)] | Literal["full"],
        Meta(
            description="verify in coarse order until so many of the best are certain, instead of"
            " all top_k; these are then exactly those of full"
        ),
    ] = "full"
    compare_top: Annotated[
        int, Meta(ge=1, le=100_000, description="α, how many candidates are compared")
    ] = 10
    compare_order: Annotated[
        Literal["accept", "probability", "fused"],
        Meta(
            description="how the compared are ordered: accepted ones first, by P(yes) alone, or by"
            " reciprocal rank fusion of P(yes) and the rank before"
        ),
    ] = "accept"
    baselines: Annotated[
        bool,
        Meta(description="also rank by the reference image alone, the text alone, and their sum"),
    ] = False
    record_lists: Annotated[
        tuple[str, ...],
        Meta(description="lists ranked and recorded though not fused, e.g. v1.visual"),
    ] = ()
    exclude_reference: Annotated[
        bool | None,
        Meta(
            description="take the reference image out of the gallery; not given, the data set's"
            " protocol says so, and anything else is a deviation that is printed"
        ),
    ] = None
    imagine_text: Annotated[
        bool,
        Meta(description="imagine the target from text; without both, the text itself retrieves"),
    ] = True
    imagine_image: Annotated[
        bool, Meta(description="imagine the target from the reference's pixels")
    ] = True
    llm: Annotated[
        str,
        Meta(
            description="the model that must serve reasoning over text (target captions,"
            " propositions, checks of captions); not given, whatever the agents serve"
        ),
    ] = ""
    mllm: Annotated[
        str,
        Meta(
            description="the model that must serve reasoning over pixels (imagination, checks of"
            " images)"
        ),
    ] = ""
    captioner: Annotated[str, Meta(description="the model that must serve captions")] = ""
    evaluator: Annotated[str, Meta(description="the model that must serve comparisons")] = ""
    clip: Annotated[str, Meta(description="the CLIP that must serve embeddings")] = ""
    seed: Annotated[
        int, Meta(ge=0, le=2**32 - 1, description="seed of everything drawn at random")
    ] = DEFAULT_SEED

    def __post_init__(self) -> None:
        for name, kind in _types_of_knobs():
            _check_value(name, getattr(self, name), kind)
        self._check_stages()
        self._check_lists()
        if self.rank_depth < self.top_k:
            raise ConfigurationError(
                f"rank_depth is {self.rank_depth}: it must be at least top_k, {self.top_k}"
            )
        if self.verify_mode == "both" and self.visual_weight + self.textual_weight == 0:
            raise ConfigurationError("visual_weight and textual_weight are both 0: one must count")

    def _check_stages(self) -> None:
        order = get_args(Stage)
        if self.stages not in (order[:1], order[:2], order, (order[0], order[2])):
            raise ConfigurationError(
                f"stages is {list(self.stages)}: coarse, then verify, compare or both"
            )

    def _check_lists(self) -> None:
        for name in ("retrieve_texts", "list_kinds"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ConfigurationError(f"{name} is {list(values)}: give at least one, each once")
        for list_name in self.record_lists:
            _parse_list_name(list_name)
        if self.fusion == "none" and len(self.fused_lists()) > 1:
            names = [wanted.name for wanted in self.fused_lists()]
            raise ConfigurationError(
                f"fusion is 'none' but there are {len(names)} lists, {names}:"
                " give one of retrieve_texts and one of list_kinds"
            )
        if self.head_source not in ("fused", *self.effective_texts()):
            raise ConfigurationError(
                f"head_source is {self.head_source!r}: use fused or one of the text sets that"
                f" retrieve, {list(self.effective_texts())}"
            )

    def effective_texts(self) -> tuple[TextSet, ...]:
        """`retrieve_texts` without what a left-out imagination would have fed.

        With one imagination left, "aug" is the same set as v1 or v2, so it is that one.
        """
        if self.imagine_text and self.imagine_image:
            return self.retrieve_texts
        alone: TextSet = "v1" if self.imagine_text else "v2"
        if not self.imagine_text and not self.imagine_image:
            return ("text",)
        kept: dict[TextSet, None] = {}
        for text_set in self.retrieve_texts:
            if text_set in ("aug", alone):
                kept[alone] = None
            elif text_set == "text":
                kept["text"] = None
        return tuple(kept) or (alone,)

    def fused_lists(self) -> tuple[ListRequest, ...]:
        """The lists that are fused, named "v1.hybrid" and so on."""
        return tuple(
            ListRequest(f"{text_set}.{kind}", kind, text_set)
            for text_set in self.effective_texts()
            for kind in self.list_kinds
        )

    def requested_lists(self, has_reference: bool = True) -> tuple[ListRequest, ...]:
        """All lists the similarity agent is asked for: fused, recorded, baselines; each once."""
        wanted = {ranking.name: ranking for ranking in self.fused_lists()}
        available = {"text", *self.effective_texts()}
        if self.imagine_text and self.imagine_image:
            available |= {"v1", "v2", "aug"}
        for name in self.record_lists:
            text_set, kind = _parse_list_name(name)
            if text_set in available:
                wanted.setdefault(name, ListRequest(name, kind, text_set))
        for baseline in BASELINES if self.baselines else ():
            if has_reference or baseline == "text_only":
                wanted.setdefault(baseline, ListRequest(baseline, baseline, "text"))
        return tuple(wanted.values())

    def head_list(self) -> str:
        """Name of the list that feeds verification, or "fused"."""
        return self.head_source if self.head_source == "fused" else self._first_list_of_head()

    def _first_list_of_head(self) -> str:
        return f"{self.head_source}.{self.list_kinds[0]}"


@functools.cache
def _types_of_knobs() -> tuple[tuple[str, Any], ...]:
    """Name and type of every knob; finding the types takes a while, and every search has knobs."""
    return tuple((field.name, field.type) for field in msgspec.structs.fields(Knobs))


def from_mapping(given: Mapping[str, Any]) -> Knobs:
    """Knobs from JSON: what is not given has its default.

    Raises: ConfigurationError: an unknown name, or a value of the wrong type or out of range; names
        the field, the value and what is allowed.
    """
    for name in given:
        if name not in Knobs.__struct_fields__:
            raise ConfigurationError(f"there is no knob {name!r}{_meant(name)}")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
    }
    values.setdefault("rank_depth", _enough_for(values.get("top_k")))
    return Knobs(**values)


def _enough_for(top_k: Any) -> int:
    """The rank_depth of a request that gives none: the default, or top_k where that is more."""
    return max(DEFAULT_DEPTH, top_k) if isinstance(top_k, int) else DEFAULT_DEPTH


def resolve(
    requested: Mapping[str, Any], profile: Mapping[str, Any], seed: int = DEFAULT_SEED
) -> Knobs:
    """The knobs of a run: what the request gives, else the profile, else the default.

    Args:
        seed: the default of `seed` (the setting XR_SEED).
    Raises: ConfigurationError: as `from_mapping`.
    """
    return from_mapping({"seed": seed, **profile, **requested})


def to_mapping(knobs: Knobs) -> dict[str, Any]:
    """The knobs as JSON values, every one of them; `from_mapping` reads them back."""
    mapping: dict[str, Any] = msgspec.to_builtins(knobs)
    return mapping


def _check_value(name: str, value: Any, kind: Any) -> None:
    try:
        msgspec.convert(value, kind)
        if isinstance(value, float) and not math.isfinite(value):
            raise msgspec.ValidationError("not a finite number")
    except msgspec.ValidationError as error:
        allowed = allowed_values(kind)
        why = f"use {', '.join(allowed)}" if allowed else str(error)
        shown = list(value) if isinstance(value, tuple) else value
        raise ConfigurationError(f"{name} is {shown!r}: {why}") from error


def _meant(name: str) -> str:
    """What to say of an unknown knob: those of a similar name, else all of them."""
    close = difflib.get_close_matches(name.replace("-", "_"), Knobs.__struct_fields__, n=3)
    if close:
        return f": did you mean {' or '.join(close)}?"
    return f"; knobs are {', '.join(Knobs.__struct_fields__)}"


def allowed_values(kind: Any) -> tuple[str, ...]:
    """The values a field of this type, or each of its members, may take; () without a list.

    Where a word stands beside a number, the number's bounds are one of the values.
    """
    origin = get_origin(kind)
    if origin is Annotated:
        return allowed_values(get_args(kind)[0])
    if origin is Literal:
        return tuple(str(value) for value in get_args(kind))
    if origin is tuple:
        return allowed_values(get_args(kind)[0])
    if kind is bool or (origin in (Union, UnionType) and bool in get_args(kind)):
        return ("true", "false")
    if origin in (Union, UnionType):
        number, *words = get_args(kind)
        bounds = get_args(number)[1]
        return (f"{bounds.ge} to {bounds.le}", *itertools.chain(*map(allowed_values, words)))
    return ()


def _parse_list_name(name: str) -> tuple[TextSet, FusedKind]:
    """Raises: ConfigurationError: not "<text set>.<kind>"."""
    for text_set in get_args(TextSet):
        for kind in get_args(FusedKind):
            if name == f"{text_set}.{kind}":
                return text_set, kind
    sets, kinds = ", ".join(get_args(TextSet)), ", ".join(get_args(FusedKind))
    raise ConfigurationError(
        f"record_lists has {name!r}: use <text set>.<kind>, of {sets} and {kinds}"
    )
