"""The similarity agent: embeds images and texts, and ranks galleries by them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agents.backends.contract import EmbeddingModel, FloatVector, ImageFile
from agents.caching import BoundedCache
from agents.plans import usable
from agents.similarity.indexes import Indexes
from agents.stores import Databases, Galleries
from shared.contracts.messages import Failure, RequestMessage
from shared.contracts.skills import (
    Body,
    EmbedImages,
    EmbedTexts,
    ImagesEmbedded,
    ItemFailure,
    RankGallery,
    Result,
    TextsEmbedded,
    Vector,
)
from shared.embedding_check import what_is_wrong
from shared.errors import ItemError, PermanentError, TransientError
from shared.ranking import Ranked, rank_galleries

_TEXTS_KEPT = 8192

Embedded = FloatVector | ItemError


class SimilarityAgent:
    """Answers EmbedImages, EmbedTexts and RankGallery. Texts embedded lately are remembered."""

    def __init__(
        self,
        clip: EmbeddingModel,
        galleries: Galleries,
        databases: Databases,
        indexes: Indexes | None = None,
    ) -> None:
        self._clip = clip
        self._galleries = galleries
        self._databases = databases
        self._indexes = indexes or Indexes()
        self._texts: BoundedCache[str, FloatVector] = BoundedCache(_TEXTS_KEPT, "texts")

    def answer(self, messages: Sequence[RequestMessage]) -> list[Result | Failure]:
        """One result per message, in order; the texts and images of all are embedded at once, and
        a gallery that several ask about is gone over once.

        What the model raises is not caught: the consumer then tries each message alone.
        """
        bodies = [message.body for message in messages]
        images = [self._images(body) for body in bodies]
        image_vectors = iter(
            self._clip.embed_images([image for of in images for image in of.files])
        )
        texts = self._embed_texts([text for body in bodies for text in _texts_of(body)])
        ranked = self._rank([body for body in bodies if isinstance(body, RankGallery)], texts)
        results: list[Result | Failure] = []
        for body, asked in zip(bodies, images, strict=True):
            if isinstance(body, RankGallery):
                results.append(next(ranked))
                continue
            vectors = [next(image_vectors) for _ in asked.files]
            try:
                results.append(self._result(body, asked, vectors, texts))
            except (ItemError, PermanentError) as error:
                results.append(Failure(str(error)))
        return results

    def _images(self, body: Body) -> _AskedImages:
        if not isinstance(body, EmbedImages):
            return _AskedImages([])
        try:
            return _AskedImages(self._galleries.images(body.gallery, body.rows))
        except PermanentError as error:
            return _AskedImages([], str(error))

    def _embed_texts(self, texts: Sequence[str]) -> dict[str, Embedded]:
        """Text -> unit vector, or why there is none."""
        embedded: dict[str, Embedded] = {}
        unknown = []
        for text in dict.fromkeys(texts):
            vector = self._texts.get(text)
            if vector is None:
                unknown.append(text)
            else:
                embedded[text] = vector
        for text, outcome in zip(unknown, self._clip.embed_texts(unknown), strict=True):
            embedded[text] = outcome
            if not isinstance(outcome, ItemError):
                self._texts.put(text, outcome)
        return embedded

    def _result(
        self,
        body: Body,
        images: _AskedImages,
        image_vectors: Sequence[Embedded],
        texts: dict[str, Embedded],
    ) -> Result | Failure:
        if isinstance(body, EmbedImages):
            if images.problem:
                return Failure(images.problem)
            remaining = iter(image_vectors)
            return ImagesEmbedded(
                tuple(
                    row if isinstance(row, ItemFailure) else _vector(next(remaining))
                    for row in images.rows
                )
            )
        if isinstance(body, EmbedTexts):
            return TextsEmbedded(tuple(_vector(texts[text]) for text in body.texts))
        raise ItemError(f"the similarity agent has no skill for {type(body).__name__}")

    def _rank(
        self, bodies: Sequence[RankGallery], texts: dict[str, Embedded]
    ) -> Iterator[Result | Failure]:
        """One outcome per request, in order."""
        outcomes: dict[int, Result | Failure] = {}
        by_database: dict[str, dict[int, Ranked]] = {}
        for place, body in enumerate(bodies):
            try:
                asked = Ranked(body, {text: _bytes(texts[text]) for text in _texts_of(body)})
            except ItemError as error:
                outcomes[place] = Failure(str(error))
            else:
                by_database.setdefault(body.database, {})[place] = asked
        for key, asked_of in by_database.items():
            try:
                database = self._databases.database(key)
                index = self._indexes.of(database)
                ranked = rank_galleries(list(asked_of.values()), database, index)
            except (PermanentError, TransientError) as error:
                retryable = isinstance(error, TransientError)
                outcomes.update(dict.fromkeys(asked_of, Failure(str(error), retryable=retryable)))
                continue
            for place, answer in zip(asked_of, ranked, strict=True):
                outcomes[place] = Failure(str(answer)) if isinstance(answer, ItemError) else answer
        return (outcomes[place] for place in range(len(bodies)))


class _AskedImages:
    """The images one message names, row by row, and what was wrong with the message if anything."""

    def __init__(self, rows: Sequence[ImageFile | ItemFailure], problem: str = "") -> None:
        self.rows = rows
        self.files = usable(rows)
        self.problem = problem


def _texts_of(body: Body) -> list[str]:
    if isinstance(body, EmbedTexts):
        return list(body.texts)
    if isinstance(body, RankGallery):
        return [text for texts in body.text_sets.values() for text in texts]
    return []


def _vector(outcome: Embedded) -> Vector | ItemFailure:
    if isinstance(outcome, ItemError):
        return ItemFailure(str(outcome))
    values = outcome.astype("<f4").tobytes()
    problem = what_is_wrong(values)
    return ItemFailure(problem) if problem else Vector(values)


def _bytes(outcome: Embedded) -> bytes:
    if isinstance(outcome, ItemError):
        raise outcome
    values = outcome.astype("<f4").tobytes()
    if problem := what_is_wrong(values):
        raise ItemError(problem)
    return values
