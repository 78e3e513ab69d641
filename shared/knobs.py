"""Every parameter of a run, with the paper's defaults, validated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from shared.contracts.skills import ListKind, ListRequest
from shared.errors import ConfigurationError

Stage = Literal["coarse", "verify", "compare"]
TextSet = Literal["v1", "v2", "aug", "text"]
FusedKind = Literal["visual", "textual", "hybrid"]
Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
Weight = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]

BASELINES: tuple[ListKind, ...] = ("image_only", "text_only", "image_text_sum")


class Knobs(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a run.

    Attributes:
        stages: which stages run: "coarse", then "verify", then "compare".
        retrieve_texts: the text sets that retrieve: v1 = C_t, v2 = {C_v}, aug = both, text = T_m.
        list_kinds: how each of them scores; the fused lists are the product of the two.
        fusion: rrf, sum, interleave, or none (one list only).
        rrf_k: k of reciprocal rank fusion.
        head_source: which ranking feeds verification: fused, or the first list of a text set.
        text_weight: λ, the weight of captions in hybrid lists.
        num_questions: |Q|, propositions per query at most.
        verify_mode: what candidates are checked by: their image, their caption, or both.
        visual_weight, textual_weight: w_v and w_t of the two.
        scoring: hard counts satisfied propositions, soft takes probabilities.
        top_k: k', how many candidates are verified.
        rank_depth: how many rows each list returns.
        compare_top: α, how many candidates stage 3 compares.
        compare_soft: whether stage 3 orders by P(yes) instead of moving accepted ones first.
        baselines: also rank by the reference image alone, the text alone, and their sum.
        record_lists: lists ranked and recorded though not fused, e.g. ("v1.visual",).
        exclude_reference: whether the reference is taken out; None = as the data set's protocol has
            it, anything else is a deviation and is printed.
        imagine_text, imagine_image: False leaves that imagination out; what it would have fed is
            left out too, and without both, T_m itself retrieves.
        seed: seed of everything drawn at random.
    """

    stages: tuple[Stage, ...] = ("coarse", "verify")
    retrieve_texts: tuple[TextSet, ...] = ("v1", "v2", "aug")
    list_kinds: tuple[FusedKind, ...] = ("hybrid",)
    fusion: Literal["rrf", "sum", "interleave", "none"] = "rrf"
    rrf_k: Count = 60
    head_source: Literal["fused", "v1", "v2", "aug", "text"] = "fused"
    text_weight: Weight = 0.15
    num_questions: Annotated[int, msgspec.Meta(ge=1, le=20)] = 3
    verify_mode: Literal["both", "visual", "textual"] = "both"
    visual_weight: Weight = 0.5
    textual_weight: Weight = 0.5
    scoring: Literal["hard", "soft"] = "hard"
    top_k: Count = 100
    rank_depth: Count = 100
    compare_top: Count = 10
    compare_soft: bool = False
    baselines: bool = False
    record_lists: tuple[str, ...] = ()
    exclude_reference: bool | None = None
    imagine_text: bool = True
    imagine_image: bool = True
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] = 42

    def __post_init__(self) -> None:
        for field in msgspec.structs.fields(self):
            _check_value(field.name, getattr(self, field.name), field.type)
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


def from_mapping(given: Mapping[str, Any]) -> Knobs:
    """Knobs from JSON: what is not given has its default.

    Raises: ConfigurationError: an unknown name, or a value of the wrong type or out of range; names
        the field, the value and what is allowed.
    """
    unknown = [name for name in given if name not in Knobs.__struct_fields__]
    if unknown:
        raise ConfigurationError(
            f"there is no knob {unknown[0]!r}; knobs are {', '.join(Knobs.__struct_fields__)}"
        )
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
    }
    return Knobs(**values)


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
        allowed = _allowed(kind)
        why = f"use {', '.join(allowed)}" if allowed else str(error)
        shown = list(value) if isinstance(value, tuple) else value
        raise ConfigurationError(f"{name} is {shown!r}: {why}") from error


def _allowed(kind: Any) -> tuple[str, ...]:
    """The values a field may take, when they can be listed."""
    origin = get_origin(kind)
    if origin is Literal:
        return tuple(str(value) for value in get_args(kind))
    if origin is tuple:
        return _allowed(get_args(kind)[0])
    if kind is bool or (origin in (Union, UnionType) and bool in get_args(kind)):
        return ("true", "false")
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
