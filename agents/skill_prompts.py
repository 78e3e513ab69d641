"""How each skill's fields fill its prompt: one function per skill, to answer and to train alike.

Pure: the same fields always give the same words. The answers the generating skills are asked for
are `json.dumps(answer)` with its default separators, keys in the order of the skill's schema
(`agents/imagination/schemas.py`, `agents/question/schemas.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from agents.backends.contract import ImageFile, Prompt
from agents.prompting import PromptSet
from shared.contracts.skills import Edit

NO_IMAGE = "no image"
"""Stands for the description where a query has neither a reference image nor an earlier round."""


def caption_prompt(prompts: PromptSet, image: ImageFile) -> Prompt:
    """Describe one image."""
    return _filled(prompts, "caption", (image,))


def imagine_text_prompt(prompts: PromptSet, modification_text: str, description: str) -> Prompt:
    """The target from the text alone. `description` empty means there is no image."""
    return _filled(
        prompts,
        "imagine_text",
        modification_text=modification_text,
        description=description or NO_IMAGE,
    )


def imagine_dialogue_prompt(prompts: PromptSet, new_text: str, description: str) -> Prompt:
    """A later round of a dialogue: what is known of the target so far, and what was said now."""
    return _filled(prompts, "imagine_dialogue", modification_text=new_text, description=description)


def imagine_image_prompt(
    prompts: PromptSet, modification_text: str, reference: ImageFile | None
) -> Prompt:
    """The target from the reference's pixels; without a reference, from the text alone."""
    images = () if reference is None else (reference,)
    return _filled(prompts, "imagine_image", images, modification_text=modification_text)


def propose_prompt(
    prompts: PromptSet,
    modification_text: str,
    edits: Sequence[Edit],
    existent: Sequence[str],
    nonexistent: Sequence[str],
) -> Prompt:
    """Questions that tell the target from its look-alikes."""
    return _filled(
        prompts,
        "propose",
        modification_text=modification_text,
        edits=edits_text(edits),
        existent="; ".join(existent),
        nonexistent="; ".join(nonexistent),
    )


def verify_image_prompt(prompts: PromptSet, image: ImageFile, question: str) -> Prompt:
    """A yes/no question about a candidate's pixels."""
    return _filled(prompts, "verify_image", (image,), question=question)


def verify_caption_prompt(prompts: PromptSet, question: str, caption: str) -> Prompt:
    """A yes/no question about a candidate's caption."""
    return _filled(prompts, "verify_caption", question=question, caption=caption)


def verify_image_jointly_prompt(
    prompts: PromptSet, image: ImageFile, questions: Sequence[str]
) -> Prompt:
    """All yes/no questions about a candidate's pixels."""
    return _filled(prompts, "verify_image_jointly", (image,), questions=numbered(questions))


def verify_caption_jointly_prompt(
    prompts: PromptSet, questions: Sequence[str], caption: str
) -> Prompt:
    """All yes/no questions about a candidate's caption."""
    return _filled(
        prompts, "verify_caption_jointly", questions=numbered(questions), caption=caption
    )


def compare_prompt(
    prompts: PromptSet, reference: ImageFile, candidate: ImageFile, modification_text: str
) -> Prompt:
    """Does the candidate reflect the change asked of the reference? Reference image first."""
    images = (reference, candidate)
    return _filled(prompts, "compare", images, modification_text=modification_text)


def numbered(questions: Sequence[str]) -> str:
    """One line a question, in the order given."""
    return "\n".join(f"{number}. {text}" for number, text in enumerate(questions, 1))


def edits_text(edits: Sequence[Edit]) -> str:
    """M_t in one line: "kind: subject -> change; …", in the order given."""
    return "; ".join(f"{edit.kind}: {edit.subject} -> {edit.change}" for edit in edits)


def _filled(
    prompts: PromptSet, skill: str, images: tuple[ImageFile, ...] = (), **fields: str
) -> Prompt:
    template = prompts[skill]
    return Prompt(text=template.fill(**fields), images=images, system=template.system)
