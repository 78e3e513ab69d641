"""HTML and SVG elements as text; whatever is not markup already is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TypeAlias

VOID = frozenset({"img", "meta", "link", "br", "circle", "line", "path", "rect", "polyline"})


class Markup(str):
    """Text that is markup, not to be escaped again."""

    __slots__ = ()


Child: TypeAlias = "str | int | Iterable[Child] | None"


def tag(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """`<name attribute="...">children</name>`.

    Args:
        children: text is escaped, `Markup` is not; None is left out, iterables are joined.
        attributes: "class_" is class, other underscores are dashes; True gives a bare attribute,
            None and False none.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID and not children:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{joined(*children)}</{name}>")


def joined(*children: Child) -> Markup:
    """The children one after another, escaped where they are text."""
    return Markup("".join(_child(child) for child in children))


def table(heading: Sequence[str], rows: Sequence[Markup], label: str) -> Markup:
    """A table that scrolls sideways where it is too wide; `label` says what it shows."""
    head = tag("thead", tag("tr", [tag("th", name, scope="col") for name in heading]))
    inner = tag("table", tag("caption", label, class_="hidden"), head, tag("tbody", *rows))
    return tag("div", inner, class_="table", tabindex="0", role="region", aria_label=label)


def _child(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, (str, int)):
        return escape(str(child))
    return joined(*child)


def _attribute(key: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    shown = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return f' {name}="{escape(shown)}"'
