"""What each skill of each agent is asked and answers: the bodies of the messages.

Images are named by (gallery, row): `gallery` is the key of a gallery on the shared volume and `row`
the 0-based position in its listing. Messages carry no pixels. Every answer to a list of rows has
exactly one entry per row, in the order asked, each a value or an `ItemFailure`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from shared.contracts.limits import MAX_QUESTIONS, Questions, Row, Rows, Text

AgentName = Literal["imagination", "similarity", "question"]
EditKind = Literal["add", "remove", "modify", "compare", "retain"]
ListKind = Literal["visual", "textual", "hybrid", "image_only", "text_only", "image_text_sum"]


class Body(msgspec.Struct, frozen=True, tag=True):
    """Base of every request and result body; the class name is its tag on the wire.

    Fields a reader does not know are ignored, and a new field has a default: old and new programs
    work side by side while a version is rolled out (see `messages.SCHEMA_VERSION`).
    """


# --- values ---------------------------------------------------------------------------------------


class Value(msgspec.Struct, frozen=True):
    """Base of the plain records inside bodies."""


class Edit(Value, frozen=True):
    """One entry of M_t. `subject` is how the reference has it, `change` how the target has it.

    By kind: add (subject = what is new, change = "new"), remove (change = "gone"), modify and
    compare (change = the changed description), retain (change = "same").
    """

    kind: EditKind
    subject: str
    change: str


class Proposition(Value, frozen=True):
    """A yes/no question about the target and the answer expected of it."""

    question: str
    expected: bool


class ItemFailure(Value, frozen=True, tag=True):
    """This item failed, the others of its batch did not."""

    reason: str


class Caption(Value, frozen=True, tag=True):
    """A caption of one image."""

    text: str


class Vector(Value, frozen=True, tag=True):
    """A unit-length embedding: little-endian float32 bytes."""

    values: bytes


class Answers(Value, frozen=True, tag=True):
    """P(yes) for each question asked about one candidate, in the order asked, each in [0, 1]."""

    p_yes: tuple[float, ...]


class ListRequest(Value, frozen=True):
    """One ranking wanted of the gallery: its name, how it scores, and the text set it uses."""

    name: str
    kind: ListKind
    text_set: str = ""


class RankedList(Value, frozen=True):
    """The best rows of one list, best first: int32 rows, float32 scores, little-endian bytes."""

    name: str
    rows: bytes
    scores: bytes

    def __post_init__(self) -> None:
        if len(self.rows) % 4 or len(self.rows) != len(self.scores):
            raise ValueError(f"{len(self.rows)} bytes of rows, {len(self.scores)} of scores")


# --- imagination ----------------------------------------------------------------------------------


class CaptionImages(Body, frozen=True):
    """Describe images of a gallery (c_j)."""

    gallery: str
    rows: Rows


class ImagesCaptioned(Body, frozen=True):
    results: tuple[Caption | ItemFailure, ...]


class ImagineText(Body, frozen=True):
    """From the reference's caption and the modification text: edits M_t and target captions C_t.

    Without a reference image `reference_caption` is empty. In a later round of a dialogue
    `previous_description` is what was imagined last, and takes the place of the caption.
    """

    modification_text: Text
    reference_caption: str = ""
    previous_description: str = ""


class TextImagined(Body, frozen=True):
    """M_t and C_t. `parsed` is false when the answer was unusable and C_t fell back to [T_m]."""

    edits: tuple[Edit, ...]
    captions: tuple[str, ...]
    parsed: bool = True


class ImagineImage(Body, frozen=True):
    """From the reference's pixels and the modification text: M_v and C_v."""

    modification_text: Text
    gallery: str = ""
    row: Row | None = None


class ImageImagined(Body, frozen=True):
    """What must exist, what must not, and one caption. `parsed` as in `TextImagined`."""

    existent: tuple[str, ...]
    nonexistent: tuple[str, ...]
    caption: str
    parsed: bool = True


# --- similarity -----------------------------------------------------------------------------------


class EmbedImages(Body, frozen=True):
    gallery: str
    rows: Rows


class ImagesEmbedded(Body, frozen=True):
    results: tuple[Vector | ItemFailure, ...]


class EmbedTexts(Body, frozen=True):
    texts: tuple[str, ...]


class TextsEmbedded(Body, frozen=True):
    results: tuple[Vector | ItemFailure, ...]


class RankGallery(Body, frozen=True):
    """Rank the searchable rows of an image database by every list asked for.

    Attributes:
        database: key of the image database.
        text_sets: name -> texts, e.g. {"v1": C_t, "v2": [C_v], "aug": C_t + [C_v], "text": [T_m]}.
        lists: the rankings wanted.
        text_weight: λ of the hybrid lists.
        depth: how many rows each list returns at most.
        excluded_rows: never ranked (the reference where the protocol removes it).
        subset_rows: when given, only these are ranked.
        reference_row: row of the reference image, for the image baselines.
    """

    database: str
    text_sets: dict[str, tuple[str, ...]]
    lists: tuple[ListRequest, ...]
    text_weight: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
    depth: Annotated[int, msgspec.Meta(ge=1)]
    excluded_rows: tuple[Row, ...] = ()
    subset_rows: tuple[Row, ...] | None = None
    reference_row: Row | None = None


class GalleryRanked(Body, frozen=True):
    """The lists asked for, and what they were ranked by, so that they can be ranked again.

    Attributes:
        text_embeddings: each distinct text -> its unit embedding, little-endian float32 bytes.
    """

    lists: tuple[RankedList, ...]
    text_embeddings: dict[str, bytes] = {}


# --- question -------------------------------------------------------------------------------------


class ProposeQuestions(Body, frozen=True):
    """From T_m, M_t and M_v: at most `limit` propositions."""

    modification_text: Text
    edits: tuple[Edit, ...]
    existent: tuple[str, ...]
    nonexistent: tuple[str, ...]
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_QUESTIONS)]


class QuestionsProposed(Body, frozen=True):
    propositions: tuple[Proposition, ...]
    parsed: bool = True


class VerifyImages(Body, frozen=True):
    gallery: str
    rows: Rows
    questions: Questions


class VerifyCaptions(Body, frozen=True):
    database: str
    rows: Rows
    questions: Questions


class CandidatesVerified(Body, frozen=True):
    results: tuple[Answers | ItemFailure, ...]


class CompareCandidates(Body, frozen=True):
    """Does each candidate reflect the change asked of the reference? One P(yes) per row."""

    gallery: str
    reference_row: Row
    rows: Rows
    modification_text: Text


class CandidatesCompared(Body, frozen=True):
    results: tuple[Answers | ItemFailure, ...]


Request = (
    CaptionImages
    | ImagineText
    | ImagineImage
    | EmbedImages
    | EmbedTexts
    | RankGallery
    | ProposeQuestions
    | VerifyImages
    | VerifyCaptions
    | CompareCandidates
)
Result = (
    ImagesCaptioned
    | TextImagined
    | ImageImagined
    | ImagesEmbedded
    | TextsEmbedded
    | GalleryRanked
    | QuestionsProposed
    | CandidatesVerified
    | CandidatesCompared
)

AGENT_OF: dict[type[Body], AgentName] = {
    CaptionImages: "imagination",
    ImagineText: "imagination",
    ImagineImage: "imagination",
    EmbedImages: "similarity",
    EmbedTexts: "similarity",
    RankGallery: "similarity",
    ProposeQuestions: "question",
    VerifyImages: "question",
    VerifyCaptions: "question",
    CompareCandidates: "question",
}
"""Which agent answers which request."""
