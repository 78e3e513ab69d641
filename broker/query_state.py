"""All that is known of an answered query: enough to replay every stage without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgpack
import msgspec
import numpy as np
import numpy.typing as npt

from shared.contracts.skills import (
    Answers,
    ImageImagined,
    ItemFailure,
    Proposition,
    RankedList,
    TextImagined,
)
from shared.errors import DecodeError

STATE_VERSION = 2
READABLE_VERSIONS = (1, 2)
"""Version 1 has no text embeddings: its lists cannot be ranked again, only fused again."""

Rows = npt.NDArray[np.int32]
Scores = npt.NDArray[np.float32]


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the records of a state."""


class Verification(_Record, frozen=True):
    """P(yes) of each question about each candidate.

    Attributes:
        rows: the candidates asked about, int32, little-endian bytes.
        p_yes: float32 little-endian bytes, (rows, questions) in C order; a failed row is NaN.
        failures: (row, reason) of every failed candidate.
    """

    rows: bytes
    p_yes: bytes
    failures: tuple[tuple[int, str], ...] = ()

    def __post_init__(self) -> None:
        row_bytes, answer_bytes = len(self.rows), len(self.p_yes)
        fits = answer_bytes == 0 if row_bytes == 0 else answer_bytes % row_bytes == 0
        if row_bytes % 4 or not fits:
            raise ValueError(f"{answer_bytes} bytes of answers about {row_bytes} bytes of rows")

    def table(self) -> tuple[Rows, Scores]:
        """rows (n,), int32 and P(yes) (n, questions), float32."""
        rows = np.frombuffer(self.rows, dtype="<i4")
        questions = len(self.p_yes) // 4 // max(len(rows), 1)
        return rows, np.frombuffer(self.p_yes, dtype="<f4").reshape(len(rows), questions)


class QueryState(_Record, frozen=True):
    """One query's answer, or why there is none. Holds no clock time: a re-run gives the same bytes.

    Attributes:
        status: "failed" carries a `reason`, and whatever was known before the failure is dropped.
        unanswered: the failure is that no agent answered; resuming the run asks again.
        text: M_t and C_t; None where textual imagination is switched off.
        image: M_v and C_v; None where visual imagination is switched off.
        propositions_parsed: false when the question agent's answer was unusable.
        lists: the ranked lists of the gallery.
        subset_lists: the same lists over the query's subset, where the protocol has one.
        text_embeddings: each text that retrieved -> its unit embedding, little-endian float32.
        image_answers, caption_answers, comparisons: None where that was not asked.
    """

    query_id: str
    status: Literal["ok", "failed"]
    reason: str = ""
    unanswered: bool = False
    text: TextImagined | None = None
    image: ImageImagined | None = None
    propositions: tuple[Proposition, ...] = ()
    propositions_parsed: bool = True
    lists: tuple[RankedList, ...] = ()
    subset_lists: tuple[RankedList, ...] = ()
    text_embeddings: dict[str, bytes] = {}
    image_answers: Verification | None = None
    caption_answers: Verification | None = None
    comparisons: Verification | None = None

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """The skills whose answer could not be parsed."""
        parsed = {
            "imagine_text": self.text is None or self.text.parsed,
            "imagine_image": self.image is None or self.image.parsed,
            "propose": self.propositions_parsed,
        }
        return tuple(skill for skill, fine in parsed.items() if not fine)

    @property
    def description(self) -> str:
        """The target as it was imagined last and most completely; empty where it was not."""
        if self.text is not None and self.text.captions:
            return self.text.captions[-1]
        return "" if self.image is None else self.image.caption

    @property
    def item_failures(self) -> tuple[tuple[str, int, str], ...]:
        """(skill, row, reason) of every candidate that could not be verified or compared."""
        asked = {
            "verify_image": self.image_answers,
            "verify_caption": self.caption_answers,
            "compare": self.comparisons,
        }
        return tuple(
            (skill, row, reason)
            for skill, verification in asked.items()
            if verification is not None
            for row, reason in verification.failures
        )


def verification_of(
    rows: Sequence[int], answers: Sequence[Answers | ItemFailure], questions: int
) -> Verification:
    """Gather the answers about `rows`, in their order, into one table."""
    unknown = (float("nan"),) * questions
    table: list[tuple[float, ...]] = []
    failures: list[tuple[int, str]] = []
    for row, answer in zip(rows, answers, strict=True):
        if isinstance(answer, ItemFailure):
            failures.append((row, answer.reason))
        elif len(answer.p_yes) == questions and all(0 <= p <= 1 for p in answer.p_yes):
            table.append(answer.p_yes)
            continue
        elif len(answer.p_yes) == questions:
            failures.append((row, f"answers {answer.p_yes} are no probabilities"))
        else:
            failures.append((row, f"{len(answer.p_yes)} answers to {questions} questions"))
        table.append(unknown)
    return Verification(
        rows=np.asarray(rows, dtype="<i4").tobytes(),
        p_yes=np.array(table, dtype="<f4").tobytes(),
        failures=tuple(failures),
    )


def encode_state(state: QueryState) -> bytes:
    """State -> msgpack bytes; the same state always gives the same bytes."""
    fields = msgspec.to_builtins(state, builtin_types=(bytes,))
    packed: bytes = msgpack.packb({"version": STATE_VERSION, **fields}, use_bin_type=True)
    return packed


def decode_state(payload: bytes) -> QueryState:
    """Raises: DecodeError: no msgpack, another version, a wrong field."""
    try:
        fields: dict[str, Any] = msgpack.unpackb(payload, raw=False)
        version = fields.pop("version")
        if version not in READABLE_VERSIONS:
            raise DecodeError(payload, f"state version {version!r}, this is {STATE_VERSION}")
        return msgspec.convert(fields, QueryState, builtin_types=(bytes,))
    except DecodeError:
        raise
    except Exception as error:  # msgpack raises half a dozen unrelated types on bad input
        raise DecodeError(payload, f"no query state: {error}") from error
