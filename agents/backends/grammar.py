"""Holds generated text to a JSON schema: which tokens may come next (xgrammar)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import xgrammar

from shared.errors import ConfigurationError

ANY_WHITESPACE = False


def json_grammar(schema: str) -> str:
    """The same rules in EBNF, for engines that compile grammars themselves."""
    return str(xgrammar.Grammar.from_json_schema(schema, any_whitespace=ANY_WHITESPACE))


class JsonGrammars:
    """Compiles schemas once and masks the logits of a batch row by row.

    Answers use `json.dumps`'s default separators (", " and ": ") and no other white space.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, eos_ids: Sequence[int]) -> None:
        """`vocab_size` is the width of the logits; ids beyond the tokenizer's stay banned."""
        try:
            tokens = xgrammar.TokenizerInfo.from_huggingface(
                tokenizer, vocab_size=vocab_size, stop_token_ids=list(eos_ids)
            )
        except Exception as error:
            raise ConfigurationError(
                f"the tokenizer can't be held to a JSON schema: {error}"
            ) from error
        self._vocab_size = vocab_size
        self._compiler = xgrammar.GrammarCompiler(tokens, max_threads=1)
        self._compiled: dict[str, Any] = {}

    def matcher(self, schema: Mapping[str, Any]) -> Any:
        """A fresh automaton that accepts the tokens of one answer."""
        # Unsorted keys: the order of properties is the order of generation.
        text = json.dumps(schema)
        if text not in self._compiled:
            self._compiled[text] = self._compiler.compile_json_schema(
                text, any_whitespace=ANY_WHITESPACE
            )
        return xgrammar.GrammarMatcher(self._compiled[text])

    def mask(self, logits: torch.Tensor, matchers: Sequence[Any | None]) -> None:
        """Bans in place the tokens a row's automaton forbids. Rows with None are left alone.

        Args:
            logits: (rows, vocab_size), float32.
        """
        constrained = [row for row, matcher in enumerate(matchers) if matcher is not None]
        if not constrained:
            return
        bitmask = xgrammar.allocate_token_bitmask(len(matchers), self._vocab_size)
        for row, matcher in enumerate(matchers):
            if matcher is not None:
                matcher.fill_next_token_bitmask(bitmask, row)
        xgrammar.apply_token_bitmask_inplace(
            logits, bitmask.to(logits.device), vocab_size=self._vocab_size, indices=constrained
        )
