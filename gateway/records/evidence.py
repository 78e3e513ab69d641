"""What led to a ranking: what was imagined, asked and answered, and each image's place in it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.records.base import Record

SearchStage = Literal["coarse", "verified", "compared"]


class Proposition(Record):
    """A yes/no question about the target, and the answer expected of it."""

    question: str
    expected: bool


class Edit(Record):
    """One change from the reference to the target, as it was imagined from the text."""

    kind: Literal["add", "remove", "modify", "compare", "retain"]
    subject: str = Field(description="how the reference has it, or what is new")
    change: str = Field(description="how the target has it: new, gone, same, or in words")


class ImaginedFromText(Record):
    edits: list[Edit]
    captions: list[str] = Field(description="the target: core, enhanced, comprehensive")


class ImaginedFromImage(Record):
    existent: list[str] = Field(description="what the target must show")
    nonexistent: list[str] = Field(description="what it must not show")
    caption: str


class Imagination(Record):
    """Null where an imagination was switched off."""

    reference_caption: str = Field(default="", description="empty without a reference image")
    text: ImaginedFromText | None = None
    image: ImaginedFromImage | None = None


class RankedListView(Record):
    """One list the gallery was ranked by."""

    name: str = Field(examples=["v1.hybrid"])
    weight: float = Field(description="in the fusion; 0 = recorded only, below 0 = pushes down")


class Hit(Record):
    """One image found, and why it is here. What was not asked or not answered is null."""

    rank: int
    image_id: str
    caption: str | None = None
    coarse_rank: int | None = Field(default=None, description="in the fused ranking")
    coarse_score: float | None = None
    ranks: dict[str, int] = Field(
        default_factory=dict, description="by list; one that does not hold the image is left out"
    )
    image_answers: list[float] | None = Field(
        default=None, description="P(yes) of each proposition, by the image"
    )
    caption_answers: list[float] | None = Field(
        default=None, description="P(yes) of each proposition, by the caption"
    )
    image_score: float | None = Field(
        default=None, description="how well the image satisfies the propositions, in [0, 1]"
    )
    caption_score: float | None = Field(default=None, description="the same of the caption")
    final_score: float | None = Field(
        default=None, description="verification score times coarse score"
    )
    comparison: float | None = Field(
        default=None, description="P(yes) that it is the reference with the change made"
    )


class CandidateFailure(Record):
    """A candidate that could not be checked. It keeps the place it had."""

    skill: str
    image_id: str
    reason: str


class Evidence(Record):
    """A ranking and what led to it."""

    gallery: str
    database: str
    stage: SearchStage = Field(description="the last stage that ran")
    hits: list[Hit] = Field(description="best first")
    imagination: Imagination
    description: str = Field(
        default="", description="the target in words, for the next round of a dialogue"
    )
    propositions: list[Proposition] = Field(
        default_factory=list, description="the questions candidates were checked by"
    )
    lists: list[RankedListView] = Field(default_factory=list)
    fallbacks: list[str] = Field(default_factory=list, description="skills with unusable answers")
    failures: list[CandidateFailure] = Field(default_factory=list)
