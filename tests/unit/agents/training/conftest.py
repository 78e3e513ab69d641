"""What the tests of the trainings share."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from agents.training.vocabulary import demo_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """The demo's tokenizer; building it takes seconds."""
    return demo_tokenizer()
