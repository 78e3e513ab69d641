"""docs/from-the-authors-script.md: everything of theirs has a line, everything of ours exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from agents.prompting import SKILLS
from broker import run_store
from broker.results_table import TITLES
from gateway.cli import app
from shared import galleries, image_database
from shared.knob_descriptions import describe_knobs
from shared.knobs import from_mapping
from shared.settings import Settings
from shared.submission import metrics_of

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs/from-the-authors-script.md").read_text()
THEIR_FLAGS = {
    "--llm_path", "--mllm_path", "--img_cap_model_path", "--eval_mllm_path", "--clip_path",
    "--dataset_path", "--stage1_retrieve_texts", "--stage1_fusion", "--rrf_k", "--stage2_source",
    "--run_name", "--stage1_schema", "--stage1_rewrite_caption", "--s2_num_questions", "--s2_mode",
    "--tau", "--top_k", "--alpha", "--stages", "--dataset", "--subset", "--split",
    "--restore_states", "--stage_skip_num", "--force",
}  # fmt: skip
PROMPTS = {f"{run_store.PROMPTS}/{skill}.toml" for skill in SKILLS}
SUBMISSIONS = {
    f"{run_store.SUBMISSIONS}/{stage}_{metric}.json"
    for stage in list(TITLES)[-3:]
    for kind in ("cirr", "circo")
    for metric in metrics_of(kind)
}
FILES = SUBMISSIONS | PROMPTS | {
    run_store.LOG, run_store.METRICS, run_store.METRICS_TABLE, run_store.STATES,
    run_store.MANIFEST, run_store.PREDICTIONS, image_database.CAPTIONS, galleries.LISTING,
    image_database.IMAGE_EMBEDDINGS, image_database.CAPTION_EMBEDDINGS,
}  # fmt: skip
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in DOCUMENT.splitlines()
    if line.startswith("| `")
]


def test_every_flag_of_theirs_has_a_line() -> None:
    flags = {flag for row in ROWS for flag in re.findall(r"^`(--[a-z0-9_]+)`", row[0])}
    assert flags == THEIR_FLAGS


def test_every_option_named_exists() -> None:
    named = re.findall(r"xr ((?:[a-z]+ )+)(--[a-z-]+)", DOCUMENT)
    assert len(named) > 15
    for command, option in named:
        assert option in options_of(command.split()), f"xr {command}{option}"
    bench = options_of(["bench"])
    assert {f"--{knob.option}" for knob in describe_knobs()} <= bench
    for option in ("--no-imagine-image", "--no-imagine-text"):
        assert option in bench


def test_every_command_setting_and_file_named_exists() -> None:
    ours = " ".join(" ".join(row[1:]) for row in ROWS)
    for command in re.findall(r"`xr ([a-z]+(?: [a-z]+)?)", ours):
        assert options_of(command.split())
    settings = {f"XR_{field.upper()}" for field in Settings.__struct_fields__}
    named_settings = set(re.findall(r"\bXR_[A-Z_]+", DOCUMENT))
    assert named_settings <= settings
    files = set(re.findall(r"`([a-z_/]+\.(?:txt|json|jsonl|log|npy|toml))`", ours))
    assert files <= FILES
    assert files >= PROMPTS | SUBMISSIONS - {"submissions/coarse_recall_subset.json"}


@pytest.mark.parametrize(
    "knobs",
    [
        {"stages": ["coarse", "verify", "compare"]},
        {"imagine_image": False},
        {"imagine_text": False},
        {"head_source": "aug"},
        *({"verify_mode": mode} for mode in ("visual", "textual", "both")),
        *({"fusion": fusion} for fusion in ("rrf", "interleave", "sum")),
    ],
)
def test_the_values_named_are_taken(knobs: dict[str, object]) -> None:
    from_mapping(knobs)


def options_of(words: list[str]) -> set[str]:
    """All options of a command. Raises: KeyError: there is no such command."""
    command = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]  # type: ignore[attr-defined]
    return {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
