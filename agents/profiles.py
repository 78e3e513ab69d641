"""Profiles: which model fills which role, and where its weights are."""

from __future__ import annotations

import importlib
import inspect
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from agents.backends.contract import EmbeddingModel, LanguageModel
from shared.contracts.skills import AgentName
from shared.errors import ConfigurationError

PROFILES_FOLDER = Path(__file__).parent / "profiles"
BACKENDS = {
    "open_clip": "agents.backends.open_clip:load",
    "transformers": "agents.backends.transformers:load",
    "zero_cost": "agents.backends.zero_cost:language_model",
    "zero_cost_clip": "agents.backends.zero_cost:embedding_model",
}
"""Shipped engines: name -> factory."""

AGENT_ROLES: dict[AgentName, tuple[str, ...]] = {
    "imagination": ("captioner", "imaginer_text", "imaginer_image"),
    "similarity": ("clip",),
    "question": ("proposer", "evaluator_image", "evaluator_caption"),
}
"""The roles an agent needs filled."""

SKILL_ROLES = {
    "caption": "captioner",
    "imagine_text": "imaginer_text",
    "imagine_image": "imaginer_image",
    "propose": "proposer",
    "verify_image": "evaluator_image",
    "verify_caption": "evaluator_caption",
    "compare": "evaluator_image",
}
"""Whose model answers a skill's prompt."""

Model = LanguageModel | EmbeddingModel


class Roles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Role -> name of a model of the same profile; one model may fill several roles."""

    captioner: str
    imaginer_text: str
    imaginer_image: str
    proposer: str
    evaluator_image: str
    evaluator_caption: str
    clip: str


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One engine.

    Attributes:
        backend: name of a shipped one, or "package.module:factory"; the factory is called with the
            checkpoint and revision (where given) and the options, all by keyword.
        checkpoint: a name the backend knows; when it begins with "." or "/", a folder, relative to
            the profile's file.
        revision: the backend's word for a version: a commit, a pretrained tag.
        options: whatever else the backend takes.
    """

    backend: str
    checkpoint: str = ""
    revision: str = ""
    options: dict[str, Any] = {}


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Models for all roles. `prompts` is the name of a shipped prompt set, or a folder."""

    models: dict[str, ModelSpec]
    roles: Roles
    prompts: str = "standard"
    name: str = ""
    folder: Path = Path()

    def model_name(self, role: str) -> str:
        name: str = getattr(self.roles, role)
        return name


def load_profile(name_or_path: str) -> Profile:
    """A shipped profile by name, or one from a TOML file.

    Raises: ConfigurationError: no such profile, an unknown field or backend, a role without model.
    """
    path = PROFILES_FOLDER / f"{name_or_path}.toml"
    if not path.is_file():
        path = Path(name_or_path)
    if not path.is_file():
        shipped = ", ".join(sorted(found.stem for found in PROFILES_FOLDER.glob("*.toml")))
        raise ConfigurationError(
            f"no profile {name_or_path!r}: neither a TOML file nor one of those shipped ({shipped})"
        )
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
        profile = msgspec.convert({"name": path.stem, **fields, "folder": path.parent}, Profile)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ConfigurationError(f"profile {path}: {error}. {_expected_fields()}") from error
    for role in Roles.__struct_fields__:
        if profile.model_name(role) not in profile.models:
            raise ConfigurationError(
                f"profile {path}: role {role} names model {profile.model_name(role)!r}, "
                f"[models] has {', '.join(sorted(profile.models)) or 'none'}"
            )
    for model, spec in profile.models.items():
        if spec.backend not in BACKENDS and ":" not in spec.backend:
            raise ConfigurationError(
                f"profile {path}: model {model} has unknown backend {spec.backend!r}; there are "
                f"{', '.join(sorted(BACKENDS))}, and your own as 'package.module:factory'"
            )
    return profile


def load_models(profile: Profile, agents: Iterable[AgentName]) -> dict[str, Model]:
    """Role -> model for the roles of these agents; each is loaded once, others not at all.

    Raises: ConfigurationError: no such folder, or a backend that refuses an option or an import.
    """
    roles = [role for agent in agents for role in AGENT_ROLES[agent]]
    loaded: dict[str, Model] = {}
    for role in roles:
        name = profile.model_name(role)
        if name not in loaded:
            loaded[name] = _load_model(name, profile.models[name], profile.folder)
    return {role: loaded[profile.model_name(role)] for role in roles}


def _load_model(name: str, spec: ModelSpec, profile_folder: Path) -> Model:
    factory = _factory(name, spec.backend)
    arguments = dict(spec.options)
    if spec.checkpoint:
        arguments["checkpoint"] = _checkpoint(name, spec.checkpoint, profile_folder)
    if spec.revision:
        arguments["revision"] = spec.revision
    _check_arguments(name, spec.backend, factory, arguments)
    model: Model = factory(**arguments)
    return model


def _factory(name: str, backend: str) -> Callable[..., Any]:
    module_name, _, attribute = BACKENDS.get(backend, backend).partition(":")
    try:
        factory: Callable[..., Any] = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"model {name}: backend {backend!r} can't be imported: {error}"
        ) from error
    return factory


def _checkpoint(name: str, checkpoint: str, profile_folder: Path) -> str:
    if not checkpoint.startswith((".", "/")):
        return checkpoint
    folder = (profile_folder / checkpoint).resolve()
    if not folder.is_dir():
        raise ConfigurationError(f"model {name}: there is no checkpoint folder {folder}")
    return str(folder)


def _check_arguments(
    name: str, backend: str, factory: Callable[..., Any], arguments: Mapping[str, Any]
) -> None:
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:
        known = ", ".join(inspect.signature(factory).parameters)
        raise ConfigurationError(
            f"model {name}: backend {backend!r}: {error}; it takes {known}"
        ) from error


def _expected_fields() -> str:
    models = ", ".join(ModelSpec.__struct_fields__)
    roles = ", ".join(Roles.__struct_fields__)
    return f"A profile has `prompts`, [models.<name>] with {models}, and [roles] with {roles}"
