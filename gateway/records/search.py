"""Interactive search: what is looked for, and what was found."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from gateway.records.base import GalleryName, ImageId, Record
from gateway.records.evidence import Evidence
from shared.knob_descriptions import json_schema

Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=10)]


class SearchWeights(Record):
    """How much each list counts in the fusion; 0 leaves it out."""

    v1: Weight = Field(default=1.0, description="what is imagined from text")
    v2: Weight = Field(default=1.0, description="what is imagined from pixels")
    aug: Weight = Field(default=1.0, description="both together")
    text: Weight = Field(default=0.0, description="the modification text itself")
    reference: Weight = Field(default=0.0, description="likeness to the reference image")
    negative: Weight = Field(default=1.0, description="the negative text, pushing down")
    feedback: Weight = Field(default=1.0, description="likeness to the image marked as target")


class TargetFeedback(Record):
    """ "This one is (like) the target": what an earlier round found."""

    image_id: ImageId


class EarlierRounds(Record):
    """What was said before in a dialogue, and what the last answer made of it."""

    texts: list[Annotated[str, Field(min_length=1, max_length=10_000)]] = Field(
        default_factory=list, max_length=50, description="the texts of all earlier rounds, in order"
    )
    description: Annotated[
        str, Field(max_length=20_000, description="`description` of the last answer")
    ] = ""


class SearchRequest(Record):
    """One search: a reference image, and the change wanted. Without one, by the text alone."""

    gallery: GalleryName = ""
    database: Annotated[
        str, Field(max_length=100, description="instead of a gallery: the key of a database")
    ] = ""
    reference_image_id: Annotated[
        ImageId | None, Field(description="an image of the gallery that is to be changed")
    ] = None
    reference_upload: Annotated[
        str | None, Field(max_length=100, description="or an image uploaded before, by its id")
    ] = None
    crop: Annotated[
        tuple[Fraction, Fraction, Fraction, Fraction] | None,
        Field(description="the part of the reference that is meant: x, y, width, height"),
    ] = None
    modification_text: Annotated[
        str, Field(min_length=1, max_length=10_000, examples=["at night and without the dog"])
    ]
    negative_text: Annotated[str, Field(max_length=10_000, description="less of this")] = ""
    weights: SearchWeights = SearchWeights()
    k: Annotated[int, Field(ge=1, le=1_000, description="how many images are returned")] = 10
    depth: Annotated[
        int | None,
        Field(ge=1, le=10_000, description="how many candidates are verified; the knob top_k"),
    ] = None
    target_feedback: TargetFeedback | None = None
    earlier: EarlierRounds = EarlierRounds()
    knobs: Annotated[
        dict[str, Any], WithJsonSchema({**json_schema(), "examples": [{"stages": ["coarse"]}]})
    ] = Field(default_factory=dict)
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 60.0


class SearchView(Evidence):
    """What was found, best first, and what led there.

    A stream sends two: the coarse ranking at once, the last one when it is complete.
    """

    complete: bool = Field(default=True, description="false while candidates are being checked")
    timings: dict[str, float] = Field(
        default_factory=dict, description="seconds by step, from the first request to the answer"
    )
    seconds: float
