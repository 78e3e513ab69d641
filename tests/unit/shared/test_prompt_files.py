"""Prompts are kept by their digest, and only names that are digests are looked for."""

from __future__ import annotations

from pathlib import Path

from shared.prompt_files import keep_prompt, kept_prompts

FIRST, SECOND = "a" * 64, "b" * 64


def test_prompts_are_found_by_digest_and_the_first_one_stays(tmp_path: Path) -> None:
    folder = tmp_path / "prompts"
    keep_prompt(folder, FIRST, b'text = "one"')
    keep_prompt(folder, FIRST, b'text = "one"  # the same words')
    found = kept_prompts(folder, {"caption": FIRST, "propose": SECOND})
    assert found == {"caption": b'text = "one"'}


def test_names_that_lead_elsewhere_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.toml").write_bytes(b"a secret")
    folder = tmp_path / "prompts"
    keep_prompt(folder, FIRST, b"a prompt")
    assert kept_prompts(folder, {"caption": "../secret", "../caption": FIRST, "/x": FIRST}) == {}
