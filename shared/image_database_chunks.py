"""How the rows of a gallery are cut into chunks, which are asked for, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shared.galleries import Gallery
from shared.image_database_former import Former
from shared.image_database_parts import CaptionPart, Part, PartKind, Parts, VectorPart


class Chunks:
    """The chunks of one database, and the parts there are of them.

    Attributes:
        former: what is taken over instead of being asked for; None when all rows are asked for.
    """

    def __init__(
        self,
        gallery: Gallery,
        former: Former | None,
        parts: Parts | None,
        chunk_rows: int,
    ) -> None:
        """`parts` is None when the database is finished."""
        self.former = former
        self._gallery = gallery
        self._parts = parts
        self._chunk_rows = chunk_rows if parts is None else parts.chunk_rows

    def each(self, kind: PartKind) -> Iterator[tuple[range, tuple[int, ...]]]:
        """(its rows, those that are asked for), for every chunk of the gallery."""
        for first in range(0, len(self._gallery), self._chunk_rows):
            rows = range(first, min(first + self._chunk_rows, len(self._gallery)))
            yield rows, self._asked(kind, rows)

    def is_chunk(self, kind: PartKind, rows: Sequence[int]) -> bool:
        """Whether these are the rows of one chunk that are asked for."""
        first = self._first_of(rows)
        whole = range(first, min(first + self._chunk_rows, len(self._gallery)))
        return tuple(rows) == self._asked(kind, whole)

    def is_done(self, kind: PartKind, asked: Sequence[int]) -> bool:
        """Whether the part is there. Where no row has a caption, none is to be embedded."""
        first = self._first_of(asked)
        if self._parts is None or self._parts.has(kind, first):
            return True
        if kind != "caption-embeddings" or not self._parts.has("captions", first):
            return False
        return not self.captions(asked).captions

    def put(self, kind: PartKind, rows: Sequence[int], part: CaptionPart | VectorPart) -> None:
        """Keep a part, unless another builder was first or the database is finished."""
        if self._parts is not None:
            self._parts.put(kind, self._first_of(rows), part)

    def captions(self, asked: Sequence[int]) -> CaptionPart:
        """The captions of a chunk; none when none is asked for. Raises: as `Parts.read`."""
        return self._read("captions", asked, CaptionPart) if asked else CaptionPart({}, {})

    def images(self, asked: Sequence[int]) -> VectorPart:
        """The image embeddings of a chunk, likewise."""
        return self._read("images", asked, VectorPart) if asked else VectorPart({}, {})

    def caption_embeddings(self, asked: Sequence[int]) -> VectorPart:
        """The caption embeddings of a chunk, likewise."""
        if not self.captions(asked).captions:
            return VectorPart({}, {})
        return self._read("caption-embeddings", asked, VectorPart)

    def have_healed(self) -> bool:
        """Whether asking again has helped some row; True when nothing was asked again."""
        if self.former is None or not self.former.is_retry:
            return True
        former = self.former.database
        if any(self.images(asked).vectors for _, asked in self.each("images")):
            return True
        return any(
            self.caption_embeddings(asked).vectors
            or any(former.captions[row] is None for row in self.captions(asked).captions)
            for _, asked in self.each("captions")
        )

    def _asked(self, kind: PartKind, rows: range) -> tuple[int, ...]:
        readable = (row for row in rows if row not in self._gallery.failures)
        if self.former is None:
            return tuple(readable)
        sources = self.former.images if kind == "images" else self.former.captions
        if (sources[rows.start : rows.stop] >= 0).all():
            return ()
        return tuple(row for row in readable if sources[row] < 0)

    def _read(self, kind: PartKind, asked: Sequence[int], of: type[Part]) -> Part:
        if self._parts is None:
            raise FileNotFoundError("the database is finished: its parts are gone")
        return self._parts.read(kind, self._first_of(asked), asked, of)

    def _first_of(self, rows: Sequence[int]) -> int:
        return rows[0] - rows[0] % self._chunk_rows
