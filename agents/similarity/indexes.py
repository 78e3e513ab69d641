"""Which index answers for an image database: Qdrant where it was chosen, a device, or exact."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from agents.caching import BoundedCache
from shared.gallery_index import EmbeddedGallery, ExactIndex, GalleryIndex
from shared.image_database import ImageDatabase
from shared.index_choice import EXACT, INDEX, IndexChoice, read_choice
from shared.qdrant_index import QdrantIndex, connect_qdrant
from shared.settings import Settings

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

logger = logging.getLogger(__name__)

_KEPT_OPEN = 8
_MB = 1_000_000


class DeviceIndexes(Protocol):
    """Galleries resident on a device (`agents.backends.torch_ranking.DeviceGalleries`)."""

    def index(self, key: str, gallery: EmbeddedGallery) -> GalleryIndex: ...


class Indexes:
    """The index of each image database, as its folder says at the moment."""

    def __init__(
        self,
        device: DeviceIndexes | None = None,
        connect: Callable[[], QdrantClient] | None = None,
    ) -> None:
        """
        Args:
            device: where galleries are ranked that have no index of their own; None = by numpy.
            connect: makes the client of Qdrant, once it is needed.
        """
        self._device = device
        self._connect = connect
        self._client: QdrantClient | None = None
        self._open: BoundedCache[tuple[str, int], GalleryIndex] = BoundedCache(_KEPT_OPEN)

    def of(self, database: ImageDatabase) -> GalleryIndex:
        """Raises: TransientError: Qdrant cannot be reached. PermanentError: it is not set up, its
        collection is missing, or index.json is damaged."""
        choice, changed_ns = _choice(database)
        if not choice.ranks:
            if self._device is not None:
                return self._device.index(database.key, database)
            return ExactIndex(database)
        index = self._open.get((database.key, changed_ns))
        if index is None:
            index = QdrantIndex(self._qdrant(), choice, database, database.key)
            logger.info("image database %s is ranked by %s", database.key, choice.summary())
            self._open.put((database.key, changed_ns), index)
        return index

    def _qdrant(self) -> QdrantClient:
        if self._client is None:
            self._client = self._connect() if self._connect else connect_qdrant(Settings())
        return self._client


def open_indexes(settings: Settings, clip: Any) -> Indexes:
    """As XR_RANK_DEVICE says; "auto" is the CLIP's device if that is a GPU.

    Raises: ConfigurationError: torch has no such device.
    """
    device = settings.rank_device
    if device == "auto":
        own = str(getattr(clip, "device", ""))
        device = own if own.startswith("cuda") else "numpy"
    resident: DeviceIndexes | None = None
    if device != "numpy":
        from agents.backends.torch_ranking import open_device

        resident = open_device(device, settings.rank_memory_mb * _MB)
        logger.info("galleries of up to %d MB are ranked on %s", settings.rank_memory_mb, device)
    return Indexes(resident, lambda: connect_qdrant(settings))


def _choice(database: ImageDatabase) -> tuple[IndexChoice, int]:
    """What index.json says, and when it was written."""
    try:
        changed_ns = (database.folder / INDEX).stat().st_mtime_ns
    except OSError:
        return EXACT, 0
    return read_choice(database.folder), changed_ns
