"""Profile files (TOML): agents take models and roles, a run [knobs], and `xr up` the workers."""

from __future__ import annotations

import copy
import functools
import logging
import tomllib
from pathlib import Path
from typing import Any, get_args

from shared.contracts.skills import AgentName
from shared.errors import ConfigurationError
from shared.knobs import from_mapping

logger = logging.getLogger(__name__)

PROFILES_FOLDER = Path(__file__).parent.parent / "agents" / "profiles"
"""The shipped ones; plain files, so that reading them imports nothing of the agents."""


def find_profile(name_or_path: str) -> Path:
    """The file of a shipped profile by its name, or of one's own by its path.

    Raises: ConfigurationError: there is none.
    """
    for path in (PROFILES_FOLDER / f"{name_or_path}.toml", Path(name_or_path)):
        if path.is_file():
            return path
    shipped = ", ".join(sorted(found.stem for found in PROFILES_FOLDER.glob("*.toml")))
    raise ConfigurationError(
        f"no profile {name_or_path!r}: neither a TOML file nor one of those shipped ({shipped})"
    )


def read_profile(path: Path) -> dict[str, Any]:
    """The file's content. Raises: ConfigurationError: it is no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"profile {path}: {error}") from error


def profile_knobs(name_or_path: str) -> dict[str, Any]:
    """The [knobs] of a profile; {} where it has none.

    A profile that cannot be read here (it may lie with the agents only) has none either, which is
    logged.

    Raises: ConfigurationError: it is no TOML, or a knob is unknown or wrong.
    """
    try:
        path = find_profile(name_or_path)
    except ConfigurationError as error:
        logger.warning("%s; its [knobs], if it has any, do not apply", error)
        return {}
    status = path.stat()
    return copy.deepcopy(_knobs_of(path, (status.st_mtime_ns, status.st_size, status.st_ino)))


@functools.lru_cache(maxsize=32)
def _knobs_of(path: Path, _stamp: tuple[int, int, int]) -> dict[str, Any]:
    """Read anew only where the file has changed: every search begins with its profile's knobs."""
    knobs: dict[str, Any] = read_profile(path).get("knobs", {})
    try:
        from_mapping(knobs)
    except ConfigurationError as error:
        raise ConfigurationError(f"profile {path}, [knobs]: {error}") from error
    return knobs


def profile_workers(name_or_path: str) -> list[list[AgentName]] | None:
    """Which agents share a worker process, of which each GPU gets one; None = the profile does not
    say, and each agent has processes of its own.

    Raises: ConfigurationError: no such profile, or some agent is in no process, or in two.
    """
    path = find_profile(name_or_path)
    groups = read_profile(path).get("workers")
    if groups is None:
        return None
    listed = isinstance(groups, list) and all(isinstance(group, list) for group in groups)
    agents = [agent for group in groups for agent in group] if listed else []
    if sorted(map(str, agents)) != sorted(get_args(AgentName)):
        raise ConfigurationError(
            f"profile {path}: workers must hold each of {', '.join(get_args(AgentName))} once,"
            ' as lists of those that share a process: [["imagination", "question"], ["similarity"]]'
        )
    return groups  # type: ignore[no-any-return]
