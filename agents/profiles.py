"""Profiles: which model fills which role, and where its weights are."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from agents.backends.answer_cache import AnswerCache
from agents.backends.cached_model import CachedModel
from agents.backends.contract import EmbeddingModel, LanguageModel
from shared.contracts.skills import AgentName
from shared.errors import ConfigurationError
from shared.profile_files import find_profile, read_profile
from shared.settings import Settings

BACKENDS = {
    "open_clip": "agents.backends.open_clip:load",
    "openai": "agents.backends.openai:load",
    "transformers": "agents.backends.transformers:load",
    "vllm": "agents.backends.vllm:load",
    "zero_cost": "agents.backends.zero_cost:language_model",
    "zero_cost_clip": "agents.backends.zero_cost:embedding_model",
}
"""Shipped engines: name -> factory."""

AGENT_ROLES: dict[AgentName, tuple[str, ...]] = {
    "imagination": ("captioner", "imaginer_text", "imaginer_image"),
    "similarity": ("clip",),
    "question": ("proposer", "evaluator_image", "evaluator_caption", "comparer"),
}
"""The roles an agent needs filled."""

SKILL_ROLES = {
    "caption": "captioner",
    "imagine_text": "imaginer_text",
    "imagine_dialogue": "imaginer_text",
    "imagine_image": "imaginer_image",
    "propose": "proposer",
    "verify_image": "evaluator_image",
    "verify_caption": "evaluator_caption",
    "compare": "comparer",
}
"""Whose model answers a skill's prompt."""

ROLE_SETTINGS = {
    "captioner": "captioner",
    "imaginer_text": "llm",
    "imaginer_image": "mllm",
    "proposer": "llm",
    "evaluator_image": "mllm",
    "evaluator_caption": "llm",
    "comparer": "evaluator",
    "clip": "clip",
}
"""The setting that names a role's model where its profile leaves the checkpoint open."""

DEFAULT_MLLM = ("OpenGVLab/InternVL3-8B-hf", "")
DEFAULT_CLIP = ("ViT-B-32", "laion2b_s34b_b79k")
"""(checkpoint, revision) where nothing else names one."""
_NO_CHECKPOINT = frozenset({"zero_cost", "zero_cost_clip"})

Model = LanguageModel | EmbeddingModel


class Roles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Role -> name of a model of the same profile; one model may fill several roles.

    Attributes:
        comparer: of stage 3; empty = the model that checks images.
    """

    captioner: str
    imaginer_text: str
    imaginer_image: str
    proposer: str
    evaluator_image: str
    evaluator_caption: str
    clip: str
    comparer: str = ""


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One engine.

    Attributes:
        backend: name of a shipped one, or "package.module:factory"; the factory is called with the
            checkpoint and revision (where given) and the options, all by keyword.
        checkpoint: a name the backend knows; when it begins with "." or "/", a folder, relative to
            the profile's file. Empty for a shipped engine = the settings name it (see `model_of`).
        revision: the backend's word for a version: a commit, a pretrained tag.
        options: whatever else the backend takes.
    """

    backend: str
    checkpoint: str = ""
    revision: str = ""
    options: dict[str, Any] = {}


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Models for all roles.

    Attributes:
        prompts: the name of a shipped prompt set, or a folder.
        joint: all questions about a candidate are put in one prompt and answered in a row, each
            with its P(yes); by default each is a prompt of its own.
        knobs: what runs with this profile have where their request says nothing.
        workers: which agents share a process, for `xr up` (`shared.profile_files`).
    """

    models: dict[str, ModelSpec]
    roles: Roles
    prompts: str = "standard"
    joint: bool = False
    knobs: dict[str, Any] = {}
    workers: list[list[AgentName]] = []
    name: str = ""
    folder: Path = Path()

    def model_name(self, role: str) -> str:
        name: str = getattr(self.roles, role)
        return name or self.roles.evaluator_image


def load_profile(name_or_path: str) -> Profile:
    """A shipped profile by name, or one from a TOML file.

    Raises: ConfigurationError: no such profile, an unknown field or backend, a role without model.
    """
    path = find_profile(name_or_path)
    fields = read_profile(path)
    try:
        profile = msgspec.convert({"name": path.stem, **fields, "folder": path.parent}, Profile)
    except msgspec.ValidationError as error:
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


def model_of(profile: Profile, role: str, settings: Settings) -> ModelSpec:
    """The model of a role: the profile's checkpoint where it names one; else the role's setting
    (XR_LLM, XR_MLLM, XR_CAPTIONER, XR_EVALUATOR, XR_CLIP); else, for all but the CLIP,
    DEFAULT_MLLM_PATH; else the default.

    A setting is "checkpoint" or "checkpoint@revision"; a folder begins with "." or "/".
    """
    spec = profile.models[profile.model_name(role)]
    if spec.checkpoint or spec.backend in _NO_CHECKPOINT or ":" in spec.backend:
        return spec
    named: str = getattr(settings, ROLE_SETTINGS[role])
    if not named and role != "clip":
        named = settings.default_mllm_path
    if named.startswith((".", "/")):
        checkpoint, revision = str(Path(named).absolute()), ""
    elif named:
        checkpoint, _, revision = named.partition("@")
    else:
        checkpoint, revision = DEFAULT_CLIP if role == "clip" else DEFAULT_MLLM
        revision = spec.revision or revision
    return msgspec.structs.replace(spec, checkpoint=checkpoint, revision=revision)


def load_models(
    profile: Profile,
    agents: Iterable[AgentName],
    settings: Settings | None = None,
    cache: AnswerCache | None = None,
) -> dict[str, Model]:
    """Role -> model for the roles of these agents; each is loaded once, others not at all.

    Args:
        settings: name the models whose checkpoint the profile leaves open; None = the defaults.
        cache: where language models keep what they have answered; None = nowhere.
    Raises: ConfigurationError: no such folder, or a backend that refuses an option or an import.
    """
    roles = [role for agent in agents for role in AGENT_ROLES[agent]]
    loaded: dict[tuple[str, str, str], Model] = {}
    models: dict[str, Model] = {}
    for role in roles:
        name, spec = profile.model_name(role), model_of(profile, role, settings or Settings())
        key = (name, spec.checkpoint, spec.revision)
        if key not in loaded:
            model = _load_model(name, spec, profile.folder)
            loaded[key] = model if cache is None or role == "clip" else _kept(model, cache)
        models[role] = loaded[key]
    return models


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


def _kept(model: Model, cache: AnswerCache) -> Model:
    """With its answers kept, if it says exactly which weights they come from."""
    identity = model.describe()
    if identity.get("digest") or identity.get("revision"):
        return CachedModel(cast(LanguageModel, model), cache)
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
    return (
        f"A profile has `prompts`, `joint`, `workers`, [models.<name>] with {models}, "
        f"[roles] with {roles}, and [knobs]"
    )
