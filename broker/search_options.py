"""What a searcher may wish beyond a reference and a text: weights, less of something, more rounds.

Pure: what the options make of the lists that are asked for, and of how they are fused.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from shared.contracts.skills import Edit, ListRequest
from shared.errors import ConfigurationError
from shared.knobs import Knobs

TEXT, NEGATIVE, REFERENCE, FEEDBACK = "text", "negative", "reference", "feedback"
"""Further sources of lists, beside the text sets v1, v2 and aug."""
MAX_WEIGHT = 10.0


class OutsideReference(msgspec.Struct, frozen=True):
    """A reference image that is no image of the gallery: an upload, or a crop.

    Attributes:
        gallery: key of a gallery that holds it.
        row: where in it.
    """

    gallery: str
    row: int = 0


class SearchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The wishes of one search; the defaults are a benchmark query.

    Attributes:
        weights: source ("v1", "v2", "aug", "text", "reference", "negative", "feedback") -> how much
            its lists count; what is not given counts as usual.
        negative_text: what the target shows less of; empty = nothing.
        outside: the reference, where it is no image of the gallery as it is.
        feedback_row: the image an earlier round found that is (like) the target.
    """

    weights: Mapping[str, float] = {}
    negative_text: str = ""
    outside: OutsideReference | None = None
    feedback_row: int | None = None

    @property
    def reweighs(self) -> bool:
        """Whether the lists are fused otherwise than the knobs alone would have it."""
        return bool(self.weights or self.negative_text or self.feedback_row is not None)


NO_OPTIONS = SearchOptions()


def list_weights(
    knobs: Knobs, options: SearchOptions, has_reference: bool
) -> dict[ListRequest, float] | None:
    """The lists that are fused, each with its weight; None = as the knobs alone have it.

    The lists of the negative text have weights below 0.

    Args:
        has_reference: the reference is an image of the gallery, so that it has an embedding.
    Raises: ConfigurationError: a weight for something this search does not have, or nothing left.
    """
    if not options.reweighs:
        return None
    if knobs.fusion not in ("rrf", "sum") or knobs.head_source != "fused":
        raise ConfigurationError(
            "weights, a negative text and feedback need the knobs fusion rrf or sum, and "
            f"head_source fused; they are {knobs.fusion} and {knobs.head_source}"
        )
    available: dict[str, float] = dict.fromkeys(knobs.effective_texts(), 1.0)
    available.setdefault(TEXT, 0.0)
    if has_reference:
        available[REFERENCE] = 0.0
    if options.negative_text:
        available[NEGATIVE] = 1.0
    if options.feedback_row is not None:
        available[FEEDBACK] = 1.0
    for source, weight in options.weights.items():
        if source not in available and weight:
            raise ConfigurationError(
                f"weights has {source!r}, which this search does not have; it has "
                f"{', '.join(available)}"
            )
        if not 0 <= weight <= MAX_WEIGHT:
            raise ConfigurationError(f"the weight of {source} is {weight}: use 0 to {MAX_WEIGHT:g}")
    found: dict[ListRequest, float] = {}
    for source, usual in available.items():
        weight = options.weights.get(source, usual)
        if weight:
            sign = -1.0 if source == NEGATIVE else 1.0
            found |= dict.fromkeys(_lists_of(source, knobs), sign * weight)
    if not any(weight > 0 for weight in found.values()):
        raise ConfigurationError("all weights are 0: nothing is left to search by")
    return found


def edits_with(edits: tuple[Edit, ...], negative_text: str) -> tuple[Edit, ...]:
    """What the questions are made of: what there should be less of is gone from the target."""
    return (*edits, Edit("remove", negative_text, "gone")) if negative_text else edits


def _lists_of(source: str, knobs: Knobs) -> list[ListRequest]:
    if source in (REFERENCE, FEEDBACK):
        return [ListRequest(source, "image_only")]
    return [ListRequest(f"{source}.{kind}", kind, source) for kind in knobs.list_kinds]
