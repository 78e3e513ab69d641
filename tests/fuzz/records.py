"""Hypothesis strategies for the project's records, made from their annotations and their limits."""

from __future__ import annotations

import typing
from typing import Any

import msgspec
from hypothesis import strategies as st

from shared.contracts.skills import RankedList


def records(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Any valid record of a kind; `schema_version` is 1."""
    if kind is RankedList:
        lengths = st.integers(0, 3)
        return lengths.flatmap(lambda n: st.builds(kind, st.text(max_size=4), *[_words(n)] * 2))
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {name: values(hints[name]) for name in kind.__struct_fields__}
    if "schema_version" in fields:
        fields["schema_version"] = st.just(1)
    return st.builds(kind, **fields)


def _words(count: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=4 * count, max_size=4 * count)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Any valid value of a type hint; of `Annotated` ones, within the bounds of their `Meta`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        metas = [extra for extra in arguments[1:] if isinstance(extra, msgspec.Meta)]
        return _bounded(arguments[0], metas)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return st.deferred(lambda: records(hint))
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=3)
    if arguments:
        return st.one_of([values(argument) for argument in arguments])
    plain: dict[Any, st.SearchStrategy[Any]] = {
        str: st.text(max_size=8),
        bytes: st.binary(max_size=8),
        bool: st.booleans(),
        int: st.integers(-(2**63), 2**64 - 1),
        float: st.floats(allow_nan=False),
        type(None): st.none(),
        msgspec.UnsetType: st.just(msgspec.UNSET),
    }
    return plain[hint]


def _bounded(hint: Any, metas: list[msgspec.Meta]) -> st.SearchStrategy[Any]:
    """Lengths are kept short by `values` already; numbers are drawn within their bounds."""
    if hint not in (int, float):
        return values(hint)
    low = max((meta.ge for meta in metas if meta.ge is not None), default=None)
    high = min(
        [meta.le for meta in metas if meta.le is not None]
        + [meta.lt - 1 for meta in metas if meta.lt is not None],
        default=None,
    )
    if hint is int:
        return st.integers(
            -(2**63) if low is None else int(low), 2**64 - 1 if high is None else int(high)
        )
    return st.floats(low, high, allow_nan=False)
