"""Agents without models: their answers are functions of the request alone."""

from __future__ import annotations

import hashlib

import numpy as np

from shared.contracts.messages import Failure, RequestMessage
from shared.contracts.skills import (
    Answers,
    CandidatesCompared,
    CandidatesVerified,
    Caption,
    CaptionImages,
    CompareCandidates,
    Edit,
    EmbedImages,
    EmbedTexts,
    GalleryRanked,
    ImageImagined,
    ImagesCaptioned,
    ImagesEmbedded,
    ImagineImage,
    ImagineText,
    ItemFailure,
    ProposeQuestions,
    Proposition,
    QuestionsProposed,
    RankedList,
    RankGallery,
    Request,
    Result,
    TextImagined,
    TextsEmbedded,
    Vector,
    VerifyCaptions,
    VerifyImages,
)

GALLERY_ROWS = 60
DIMENSIONS = 8


class FakeAgents:
    """Answers every request; what `broken` names fails.

    Args:
        rows: size of the gallery that is ranked.
        broken_rows: candidates and images that cannot be worked on.
        refused_text: a query with this modification text is refused outright.
    """

    def __init__(
        self,
        rows: int = GALLERY_ROWS,
        broken_rows: frozenset[int] = frozenset(),
        refused_text: str = "refuse this",
    ) -> None:
        self.rows = rows
        self.broken_rows = broken_rows
        self.refused_text = refused_text

    def __call__(self, request: RequestMessage) -> Result | Failure:
        body = request.body
        if getattr(body, "modification_text", "") == self.refused_text:
            return Failure("the model refuses")
        return self._answer(body)

    def _answer(self, body: Request) -> Result:
        if isinstance(body, CaptionImages):
            return ImagesCaptioned(
                tuple(self._item(row, Caption(f"caption of image {row}")) for row in body.rows)
            )
        if isinstance(body, EmbedImages):
            return ImagesEmbedded(
                tuple(self._item(row, _vector(f"image {row}")) for row in body.rows)
            )
        if isinstance(body, EmbedTexts):
            return TextsEmbedded(tuple(_vector(text) for text in body.texts))
        if isinstance(body, ImagineText):
            edits = (Edit("add", body.modification_text, "new"),)
            known = body.previous_description or body.reference_caption
            captions = tuple(f"{body.modification_text} {n} {known}" for n in "ab")
            return TextImagined(edits, captions)
        if isinstance(body, ImagineImage):
            return ImageImagined(("a",), ("b",), f"{body.modification_text} of row {body.row}")
        if isinstance(body, ProposeQuestions):
            questions = [f"is it {body.modification_text} {n}?" for n in range(body.limit)]
            return QuestionsProposed(
                tuple(Proposition(q, n % 2 == 0) for n, q in enumerate(questions))
            )
        if isinstance(body, RankGallery):
            return GalleryRanked(tuple(self._ranked(body, one.name) for one in body.lists))
        if isinstance(body, VerifyImages | VerifyCaptions):
            return CandidatesVerified(
                tuple(self._answers(row, body.questions) for row in body.rows)
            )
        assert isinstance(body, CompareCandidates)
        return CandidatesCompared(
            tuple(self._answers(row, (body.modification_text,)) for row in body.rows)
        )

    def _item(self, row: int, value: Caption | Vector) -> Caption | Vector | ItemFailure:
        return ItemFailure("broken") if row in self.broken_rows else value

    def _answers(self, row: int, questions: tuple[str, ...]) -> Answers | ItemFailure:
        if row in self.broken_rows:
            return ItemFailure("broken")
        return Answers(tuple(_number(f"{row} {question}") for question in questions))

    def _ranked(self, body: RankGallery, name: str) -> RankedList:
        allowed = range(self.rows) if body.subset_rows is None else body.subset_rows
        rows = [row for row in allowed if row not in body.excluded_rows]
        seed = f"{name} {sorted(body.text_sets.items())}"
        scores = {row: _number(f"{seed} {row}") for row in rows}
        best = sorted(rows, key=lambda row: (-scores[row], row))[: body.depth]
        return RankedList(
            name,
            np.array(best, "<i4").tobytes(),
            np.array([scores[row] for row in best], "<f4").tobytes(),
        )


def _number(text: str) -> float:
    """A number in [0, 1) that is always the same for the same text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32


def _vector(text: str) -> Vector:
    return Vector(text_vector(text))


def text_vector(text: str) -> bytes:
    """A unit embedding, float32 bytes, that is always the same for the same text."""
    values = np.array([_number(f"{text} {n}") - 0.5 for n in range(DIMENSIONS)])
    return (values / np.linalg.norm(values)).astype("<f4").tobytes()
