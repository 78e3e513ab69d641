"""Is a file what its server takes? Everything that is wrong with it, not only the first thing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from shared.datasets.benchmark import Benchmark
from shared.errors import ConfigurationError, PermanentError
from shared.submission import circo, cirr

Kind = Literal["cirr", "circo"]
Metric = Literal["recall", "recall_subset", "map"]

MOST_PROBLEMS = 1000
_SHOWN = 20
_HEAD = ("version", "metric")


class CheckedFile(msgspec.Struct, frozen=True, kw_only=True):
    """What a file is, and what is wrong with it.

    Attributes:
        queries: how many queries it answers.
        problems: at most 1000; empty = the server takes it.
    """

    kind: Kind
    metric: str
    queries: int
    problems: tuple[str, ...]


class SubmissionProblems(PermanentError):  # noqa: N818 - it carries them
    """The server would refuse it.

    Attributes:
        problems: what is wrong; the message holds the first 20.
    """

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("the server would refuse this submission:\n" + shown(problems))
        self.problems = problems


def metrics_of(kind: Kind) -> tuple[Metric, ...]:
    """The metrics a server has a file for."""
    return ("recall", "recall_subset") if kind == "cirr" else ("map",)


def check_file(path: Path, benchmark: Benchmark | None = None) -> CheckedFile:
    """Check a file; which server it is for is seen from its content.

    Args:
        benchmark: the split it answers; without it, ids and completeness can't be checked.
    Raises: ConfigurationError: there is no such file, or it is no JSON object.
    """
    repeated: list[str] = []

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) != len(pairs):
            seen: set[str] = set()
            repeated.extend(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        return content

    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=keep)
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also what is no UTF-8
        raise ConfigurationError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} holds a {type(content).__name__}: it must be an object")
    kind = kind_of(content)
    found = [f"{key!r} stands twice" for key in repeated[:MOST_PROBLEMS]]
    found += check_content(content, benchmark, gallery_of(benchmark))
    return CheckedFile(
        kind=kind,
        metric=str(content.get("metric", "")) if kind == "cirr" else "map",
        queries=sum(key not in _HEAD for key in content) if kind == "cirr" else len(content),
        problems=tuple(found[:MOST_PROBLEMS]),
    )


def kind_of(content: Mapping[str, Any]) -> Kind:
    """CIRR's files say their version and metric, CIRCO's hold nothing but queries."""
    return "cirr" if any(key in content for key in _HEAD) else "circo"


def check_content(
    content: Mapping[str, Any], benchmark: Benchmark | None = None, gallery: Collection[str] = ()
) -> tuple[str, ...]:
    """What the server would refuse, at most 1000 things; empty = nothing.

    Args:
        benchmark: the split it answers; None = only the file's form is checked.
        gallery: the ids of all searchable images; empty = not known, so any id will do.
    """
    found = _problems(content, kind_of(content), benchmark, gallery)
    return tuple(itertools.islice(found, MOST_PROBLEMS))


def gallery_of(benchmark: Benchmark | None) -> list[str]:
    """The ids of a benchmark's searchable images; [] without one."""
    if benchmark is None:
        return []
    return [image_id for image_id, _ in benchmark.images[: benchmark.searchable]]


def shown(problems: tuple[str, ...]) -> str:
    """The first 20, one a line, and how many more there are."""
    lines = [f"- {problem}" for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"... and {len(problems) - _SHOWN} more")
    return "\n".join(lines)


def _problems(
    content: Mapping[str, Any],
    kind: Kind,
    benchmark: Benchmark | None,
    gallery: Collection[str],
) -> Iterator[str]:
    if benchmark is not None and benchmark.protocol.submission != kind:
        yield f"it has the form of a file for {kind.upper()}, not for {benchmark.name}"
        return
    answered = content.keys() - set(_HEAD) if kind == "cirr" else content.keys()
    if not answered:
        yield "it answers no query"
    if benchmark is not None:
        asked = {query.query_id: None for query in benchmark.queries}
        missing = [query_id for query_id in asked if query_id not in content]
        if missing:
            yield f"{len(missing)} of {len(asked)} queries are missing: {_some(missing)}"
        unknown = [key for key in content if key in answered and key not in asked]
        if unknown:
            split = f"{benchmark.name} {benchmark.split}"
            yield f"{len(unknown)} keys are no queries of {split}: {_some(unknown)}"
    if kind == "cirr":
        yield from cirr.problems(content, benchmark, gallery)
    else:
        yield from circo.problems(content, gallery)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
