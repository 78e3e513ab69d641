"""Profiles are checked before anything is loaded, and load each model once."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agents.profiles import AGENT_ROLES, Roles, load_models, load_profile, model_of
from agents.prompting import load_prompts
from shared.errors import ConfigurationError
from shared.profile_files import PROFILES_FOLDER, profile_knobs
from shared.settings import Settings
from tests.unit.agents.counted_models import BUILT

ROLES = """
[roles]
captioner = "language"
imaginer_text = "language"
imaginer_image = "language"
proposer = "language"
evaluator_image = "language"
evaluator_caption = "language"
clip = "clip"
"""
ZERO_COST = """
prompts = "compact"
[models.language]
backend = "zero_cost"
[models.clip]
backend = "zero_cost_clip"
options = { dimensions = 8 }
"""


def write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("path", sorted(PROFILES_FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_profiles_are_valid_and_their_prompts_exist(path: Path) -> None:
    profile = load_profile(path.stem)
    assert profile.name == path.stem
    load_prompts(profile.prompts)


def test_every_role_belongs_to_one_agent() -> None:
    roles = [role for of in AGENT_ROLES.values() for role in of]
    assert sorted(roles) == sorted(Roles.__struct_fields__)


def test_an_unknown_profile_is_answered_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match="demo, laptop, openai, paper, vllm"):
        load_profile("papre")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (ZERO_COST + ROLES.replace("proposer", "propose"), "proposer"),
        (ZERO_COST.replace("backend", "back_end") + ROLES, "backend, checkpoint, revision, opt"),
        (
            ZERO_COST.replace("zero_cost_clip", "opencilp") + ROLES,
            "open_clip, openai, transformers",
        ),
        (ZERO_COST + ROLES.replace('proposer = "language"', 'proposer = "lm"'), "clip, language"),
        ("models = [", "mine.toml"),
    ],
)
def test_a_wrong_profile_is_answered_with_what_would_be_right(
    tmp_path: Path, text: str, complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        load_profile(write(tmp_path, text))


def test_a_model_that_fills_several_roles_is_loaded_once_and_others_not_at_all(
    tmp_path: Path,
) -> None:
    BUILT.clear()
    text = (
        "[models.language]\n"
        'backend = "tests.unit.agents.counted_models:counted"\n'
        'options = { label = "language" }\n'
        "[models.clip]\n"
        'backend = "tests.unit.agents.counted_models:counted"\n'
        'options = { label = "clip" }\n'
    )
    models = load_models(load_profile(write(tmp_path, text + ROLES)), ["imagination", "question"])
    assert BUILT == ["language"]
    assert len({id(model) for model in models.values()}) == 1
    assert set(models) == {*AGENT_ROLES["imagination"], *AGENT_ROLES["question"]}


def test_an_option_the_backend_does_not_take_is_refused_with_those_it_takes(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path, ZERO_COST.replace("dimensions", "dimension") + ROLES))
    with pytest.raises(ConfigurationError, match="it takes dimensions, failing"):
        load_models(profile, ["similarity"])


def test_a_missing_checkpoint_folder_is_named(tmp_path: Path) -> None:
    text = ZERO_COST.replace('"zero_cost"', '"transformers"\ncheckpoint = "./nowhere"')
    profile = load_profile(write(tmp_path, text + ROLES))
    with pytest.raises(ConfigurationError, match=f"{tmp_path}/nowhere"):
        load_models(profile, ["question"])


def test_a_backend_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    text = ZERO_COST.replace('"zero_cost"', '"no_such_package.engine:make"')
    profile = load_profile(write(tmp_path, text + ROLES))
    with pytest.raises(ConfigurationError, match="no_such_package"):
        load_models(profile, ["question"])


OPEN = """
[models.language]
backend = "transformers"
[models.clip]
backend = "open_clip"
"""


@pytest.mark.parametrize(
    ("settings", "text_model", "clip"),
    [
        ({}, "OpenGVLab/InternVL3-8B-hf@", "ViT-B-32@laion2b_s34b_b79k"),
        ({"default_mllm_path": "a/b"}, "a/b@", "ViT-B-32@laion2b_s34b_b79k"),
        ({"default_mllm_path": "a/b", "llm": "c/d@main"}, "c/d@main", "ViT-B-32@laion2b_s34b_b79k"),
        ({"llm": "/models/x@y", "clip": "ViT-L-14@tag"}, "/models/x@y@", "ViT-L-14@tag"),
    ],
)
def test_an_open_checkpoint_is_the_roles_setting_then_the_common_one_then_the_default(
    tmp_path: Path, settings: dict[str, str], text_model: str, clip: str
) -> None:
    profile = load_profile(write(tmp_path, OPEN + ROLES))
    for role, expected in (("proposer", text_model), ("clip", clip)):
        spec = model_of(profile, role, msgspec.structs.replace(Settings(), **settings))
        assert f"{spec.checkpoint}@{spec.revision}" == expected


def test_a_checkpoint_the_profile_names_counts_before_every_setting(tmp_path: Path) -> None:
    named = OPEN.replace('"transformers"', '"transformers"\ncheckpoint = "mine/own"')
    profile = load_profile(write(tmp_path, named + ROLES))
    spec = model_of(profile, "captioner", Settings(captioner="a/b", default_mllm_path="c/d"))
    assert spec.checkpoint == "mine/own"


def test_roles_whose_settings_differ_are_separate_models_and_others_are_shared(
    tmp_path: Path,
) -> None:
    profile = load_profile(write(tmp_path, OPEN + ROLES))
    settings = Settings(evaluator="big/model")
    checkpoints = {
        role: model_of(profile, role, settings).checkpoint for role in AGENT_ROLES["question"]
    }
    assert checkpoints.pop("comparer") == "big/model"
    assert set(checkpoints.values()) == {"OpenGVLab/InternVL3-8B-hf"}


def test_the_shipped_paper_profile_leaves_its_models_to_the_settings() -> None:
    paper = load_profile("paper")
    assert model_of(paper, "proposer", Settings()).checkpoint == "OpenGVLab/InternVL3-8B-hf"
    assert model_of(paper, "proposer", Settings(llm="a/b")).checkpoint == "a/b"


def test_a_profile_may_hold_the_knobs_of_its_runs(tmp_path: Path) -> None:
    path = write(tmp_path, ZERO_COST + ROLES + "[knobs]\ntop_k = 30\n")
    assert load_profile(path).knobs == profile_knobs(path) == {"top_k": 30}
    assert profile_knobs("paper") == {}
    assert profile_knobs("./lies-elsewhere.toml") == {}
    wrong = write(tmp_path, ZERO_COST + ROLES + "[knobs]\ntop_q = 30\n")
    with pytest.raises(ConfigurationError, match=r"mine.toml, \[knobs\]: .*did you mean top_k"):
        profile_knobs(wrong)
