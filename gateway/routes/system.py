"""The system over HTTP: queues and throughput, profiles, and what a run may be told."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

from fastapi import APIRouter

from gateway.access import CallerDependency, needs
from gateway.errors import OF_EVERY_ROUTE, problems
from gateway.ports import ServicesDependency
from gateway.records import ProfileList, ProfileView, SystemView
from shared.errors import ConfigurationError
from shared.knob_descriptions import json_schema
from shared.profile_files import PROFILES_FOLDER, find_profile, read_profile

router = APIRouter(
    prefix="/v1",
    tags=["system"],
    dependencies=[needs("read")],
    responses=problems(*OF_EVERY_ROUTE),
)

_MODEL_PARTS = ("backend", "checkpoint", "revision")


@router.get("/system")
async def show_system(services: ServicesDependency, caller: CallerDependency) -> SystemView:
    """Queues and their age, workers and their throughput, coordinators, searches, runs."""
    views = [view for view in await services.benchmarks.views() if caller.sees(view.owner)]
    return SystemView(
        version=services.version,
        profile=services.settings.profile,
        agents=await services.board.agents(),
        coordinators=await services.benchmarks.coordinators(),
        searches=services.searches.load(),
        runs=dict(Counter(view.state for view in views)),
    )


@router.get("/profiles")
async def list_profiles(services: ServicesDependency) -> ProfileList:
    """The models and knobs of every shipped profile, and of the one that is used here."""
    return await asyncio.to_thread(_profiles, services.settings.profile)


@router.get("/knobs")
async def show_knobs() -> dict[str, Any]:
    """The JSON schema of `knobs` in benchmarks and searches: values, defaults, meanings."""
    return json_schema()


def _profiles(current: str) -> ProfileList:
    paths = {path.stem: path for path in sorted(PROFILES_FOLDER.glob("*.toml"))}
    if current not in paths:
        with contextlib.suppress(ConfigurationError):  # it lies with the agents only
            paths = {Path(current).stem: find_profile(current), **paths}
    current = current if current in paths else Path(current).stem
    return ProfileList(
        profiles=[_profile(name, path, name == current) for name, path in paths.items()]
    )


def _profile(name: str, path: Path, current: bool) -> ProfileView:
    content = read_profile(path)
    return ProfileView(
        name=name,
        current=current,
        models={
            # Not their options, which may hold what is nobody's business.
            called: {part: model[part] for part in _MODEL_PARTS if part in model}
            for called, model in content.get("models", {}).items()
        },
        roles=content.get("roles", {}),
        knobs=content.get("knobs", {}),
    )
