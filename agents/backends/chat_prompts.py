"""Turns prompts into token ids: the chat template rendered once per layout, then filled by text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agents.backends.contract import Prompt
from agents.backends.control_tokens import ControlTokens, control_tokens_of
from shared.contracts.limits import MAX_PROMPT_CHARACTERS, too_long
from shared.errors import ConfigurationError, ItemError

_SENTINEL = "XRPROMPTTEXT"
_PROBES = ("a b", " a\n\nb \n", "Ä?{{x}}")


@dataclass(frozen=True)
class _Layout:
    """A rendered template around the user's text; `plain` when it takes the text as it is."""

    before: str
    after: str
    plain: bool


class ChatPrompts:
    """Token ids of prompts, equal to the checkpoint's own `apply_chat_template`, but faster.

    A chat template is a small program run per prompt; all prompts of a skill differ only in the
    user's text, so it is run once per (system message, number of images) around a stand-in. A
    template that changes the text (some trim it) is noticed by probes and then run in full.

    Attributes:
        image_id: the token that stands for an image; None for a model that takes none.
    """

    def __init__(self, templater: Any, tokenizer: Any, image_token: str | None) -> None:
        """`templater` has apply_chat_template: a vision model's processor, else the tokenizer."""
        self.image_id = (
            None if image_token is None else int(tokenizer.convert_tokens_to_ids(image_token))
        )
        self._templater = templater
        self._tokenizer = tokenizer
        self._image_token = image_token
        self._layouts: dict[tuple[str, int], _Layout] = {}
        self._controls = ControlTokens(control_tokens_of(tokenizer) | {image_token or ""})
        self._control_ids = _control_ids(tokenizer)
        self._matches_exactly = _matches_control_tokens_exactly(tokenizer)

    def token_ids(
        self, prompts: Sequence[Prompt], image_texts: Sequence[Sequence[str]]
    ) -> list[list[int]]:
        """One list of ids per prompt.

        Args:
            image_texts: for each prompt, what stands for each of its images (placeholder tokens).
        """
        # The questions of a batch repeat for every candidate: render and tokenise each once.
        keys = [
            (prompt.system, prompt.text, *expansions)
            for prompt, expansions in zip(prompts, image_texts, strict=True)
        ]
        distinct = dict(zip(keys, prompts, strict=True))
        if not distinct:
            return []
        texts = [
            self._with_images(self.rendered(prompt), key[2:]) for key, prompt in distinct.items()
        ]
        encoded = self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False)[
            "input_ids"
        ]
        ids_of = dict(zip(distinct, encoded, strict=True))
        return [ids_of[key] for key in keys]

    def check(self, prompt: Prompt) -> None:
        """Raises: ItemError: the text is too long or becomes control tokens all the same, or there
        are images and the model takes none.
        """
        if prompt.images and self._image_token is None:
            raise ItemError("the prompt has images but the model reads only text")
        if problem := too_long("the prompt", prompt.text, MAX_PROMPT_CHARACTERS):
            raise ItemError(problem)
        if not self._matches_exactly and not self._control_ids.isdisjoint(
            self._tokenizer(self._controls.inert(prompt.text), add_special_tokens=False)[
                "input_ids"
            ]
        ):
            raise ItemError("the text becomes control tokens of the model")

    def first_tokens(self, choices: Sequence[str]) -> list[int]:
        """The token each choice begins with.

        Raises: ConfigurationError: two choices begin with the same one.
        """
        firsts = [
            int(self._tokenizer(choice, add_special_tokens=False)["input_ids"][0])
            for choice in choices
        ]
        if len(set(firsts)) != len(firsts):
            raise ConfigurationError(
                f"choices {tuple(choices)} can't be told apart by their first tokens {firsts}"
            )
        return firsts

    def answer_tokens(self, choices: Sequence[str], count: int) -> list[tuple[int, ...]]:
        """The tokens that mean each choice: its first one and, of several choices in a row, that
        of the choice after a space, too, where the tokenizer has one.

        Raises: ConfigurationError: two choices begin with the same one.
        """
        firsts = self.first_tokens(choices)
        if count == 1:
            return [(first,) for first in firsts]
        spaced = [
            int(self._tokenizer(f" {choice}", add_special_tokens=False)["input_ids"][0])
            for choice in choices
        ]
        if len({*firsts, *spaced}) < 2 * len(firsts):  # the space is a token of its own
            return [(first,) for first in firsts]
        return list(zip(firsts, spaced, strict=True))

    def rendered(self, prompt: Prompt) -> str:
        """The chat as text, with one placeholder per image and the answer about to begin.

        Control tokens in the prompt's words are inert: only the template writes real ones.
        """
        layout = self._layout(prompt.system, len(prompt.images))
        text = self._controls.inert(prompt.text)
        if layout.plain:
            return layout.before + text + layout.after
        return self._run_template(prompt.system, len(prompt.images), text)

    def _layout(self, system: str, images: int) -> _Layout:
        key = (system, images)
        if key not in self._layouts:
            before, found, after = self._run_template(system, images, _SENTINEL).partition(
                _SENTINEL
            )
            if not found:
                raise ConfigurationError("the checkpoint's chat template drops the user's text")
            plain = all(
                self._run_template(system, images, probe) == before + probe + after
                for probe in _PROBES
            )
            self._layouts[key] = _Layout(before, after, plain)
        return self._layouts[key]

    def _run_template(self, system: str, images: int, text: str) -> str:
        content: Any = text
        instruction: Any = system
        if self._image_token is not None:
            content = [{"type": "image"}] * images + [{"type": "text", "text": text}]
            instruction = [{"type": "text", "text": system}]
        messages = [{"role": "system", "content": instruction}] if system else []
        messages.append({"role": "user", "content": content})
        rendered = self._templater.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return str(rendered)

    def _with_images(self, rendered: str, expansions: Sequence[str]) -> str:
        if not expansions:
            return rendered
        assert self._image_token is not None
        pieces = rendered.split(self._image_token)
        if len(pieces) != len(expansions) + 1:
            raise ConfigurationError(
                f"the chat template shows {len(pieces) - 1} of {len(expansions)} images"
            )
        joined = pieces[0]
        for expansion, piece in zip(expansions, pieces[1:], strict=True):
            joined += expansion + piece
        return joined


def _control_ids(tokenizer: Any) -> frozenset[int]:
    """Ids only a template may write. The one for unknown words is none of them."""
    added = tokenizer.added_tokens_decoder.items()
    ids = {int(token_id) for token_id, token in added if token.special}
    return frozenset(ids | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id}


def _matches_control_tokens_exactly(tokenizer: Any) -> bool:
    """Whether a text without control tokens as strings can't have them as ids either.

    A tokenizer that changes the text before it looks for them may find what nobody has written.
    """
    special = [token for token in tokenizer.added_tokens_decoder.values() if token.special]
    words = [str(token.content) for token in special]
    return not any(token.normalized for token in special) and not any(
        len(word) < 2 or any(map(str.isspace, word)) for word in words
    )
