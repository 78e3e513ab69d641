"""The prompt sets are whole, put the constant part first, and are filled exactly."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.backends.contract import ImageFile, Prompt
from agents.prompting import SKILLS, PromptSet, load_prompts
from agents.skill_prompts import (
    caption_prompt,
    compare_prompt,
    edits_text,
    imagine_dialogue_prompt,
    imagine_image_prompt,
    imagine_text_prompt,
    propose_prompt,
    verify_caption_prompt,
    verify_image_prompt,
)
from shared.contracts.skills import Edit

IMAGE = ImageFile(Path("a.png"), "a" * 64)
OTHER = ImageFile(Path("b.png"), "b" * 64)
EDITS = [Edit("modify", "red dress", "blue dress"), Edit("add", "a hat", "new")]


def all_prompts(prompts: PromptSet) -> dict[str, Prompt]:
    return {
        "caption": caption_prompt(prompts, IMAGE),
        "imagine_text": imagine_text_prompt(prompts, "$5 & {more}", "a red dress"),
        "imagine_dialogue": imagine_dialogue_prompt(prompts, "$5 & {more}", "a red dress"),
        "imagine_image": imagine_image_prompt(prompts, "$5 & {more}", IMAGE),
        "propose": propose_prompt(prompts, "$5 & {more}", EDITS, ["hat", "dress"], ["dog"]),
        "verify_image": verify_image_prompt(prompts, IMAGE, "$5 & {more}"),
        "verify_caption": verify_caption_prompt(prompts, "$5 & {more}", "a red dress"),
        "compare": compare_prompt(prompts, IMAGE, OTHER, "$5 & {more}"),
    }


@pytest.mark.parametrize("name", ["compact", "standard"])
def test_every_skill_has_a_prompt_that_takes_its_fields_unchanged(name: str) -> None:
    filled = all_prompts(load_prompts(name))
    assert set(filled) == set(SKILLS)
    for skill, prompt in filled.items():
        assert "$" not in prompt.text.replace("$5 & {more}", ""), skill
        if skill not in ("caption", "propose") or (skill, name) == ("propose", "standard"):
            assert "$5 & {more}" in prompt.text, skill


def test_edits_are_one_line_in_order() -> None:
    assert edits_text(EDITS) == "modify: red dress -> blue dress; add: a hat -> new"


def test_without_description_the_prompt_says_no_image() -> None:
    prompts = load_prompts("compact")
    assert imagine_text_prompt(prompts, "a dog", "").text == "Change: a dog\nPicture: no image"


def test_without_reference_the_image_skill_has_text_alone() -> None:
    assert imagine_image_prompt(load_prompts("compact"), "a dog", None).images == ()


def test_the_reference_comes_before_the_candidate() -> None:
    assert compare_prompt(load_prompts("standard"), IMAGE, OTHER, "x").images == (IMAGE, OTHER)


@pytest.mark.parametrize("skill", ["verify_image", "verify_caption", "compare", "imagine_image"])
def test_standard_prompts_begin_with_more_constant_words_than_a_cache_block(skill: str) -> None:
    # Engines share the pass over an image between its questions in blocks of 16 tokens.
    constant = load_prompts("standard")[skill].text.partition("$")[0]
    assert len(constant.split()) >= 16


@pytest.mark.parametrize("text", ["$question ${caption} $$", "\0question\0", "{0} %s \\1", ""])
def test_a_field_is_never_read_as_a_template(text: str) -> None:
    template = load_prompts("compact")["verify_caption"]
    assert template.fill(question=text, caption="C") == template.fill(
        question="QQQ", caption="C"
    ).replace("QQQ", text)
