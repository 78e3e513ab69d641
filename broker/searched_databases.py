"""The image databases that searches go over: which is a gallery's latest, and those kept open."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping

import msgspec

from broker.agents_roster import Identity, captioner_identity
from shared.errors import ConfigurationError, DatasetError, PermanentError
from shared.galleries import Gallery, open_gallery
from shared.image_database import (
    ImageDatabase,
    database_key,
    latest_version,
    latest_with_given_captions,
    open_image_database,
)
from shared.settings import Settings

_KEPT = 8
_LATEST_KEPT_S = 2.0
"""Which database of a gallery is the latest is asked so seldom: all manifests are read for it."""


class OpenedDatabase(msgspec.Struct, frozen=True):
    """A database, and the gallery it is of."""

    gallery: Gallery
    database: ImageDatabase


class SearchedDatabases:
    """Those used last stay open. Its calls block, and may come from several threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: dict[str, OpenedDatabase] = {}
        self._latest: dict[tuple[str, str], tuple[str, float]] = {}
        self._lock = threading.Lock()  # many searches at once open a database once

    def open(
        self, gallery_key: str, key: str, identities: Mapping[str, Identity]
    ) -> OpenedDatabase:
        """A database by its key, or the latest of a gallery that these agents made.

        Raises: ConfigurationError: not one of the two. DatasetError: there is none. PermanentError:
            the agents serve another CLIP.
        """
        if bool(gallery_key) == bool(key):
            raise ConfigurationError("name either a gallery or a database by its key")
        with self._lock:
            return self._open(gallery_key, key, identities)

    def _open(
        self, gallery_key: str, key: str, identities: Mapping[str, Identity]
    ) -> OpenedDatabase:
        clip = dict(identities["similarity"])
        key = key or self._latest_of(
            gallery_key, captioner_identity(dict(identities["imagination"])), clip
        )
        opened = self._opened.pop(key, None)
        if opened is None:
            database = open_image_database(self._settings.image_db_folder, key)
            gallery = open_gallery(self._settings.galleries_folder, database.gallery_key)
            opened = OpenedDatabase(gallery, database)
        if opened.database.manifest.clip != clip:
            raise PermanentError(
                f"database {key} was made with another CLIP than the similarity agents serve "
                "(their scores would mean nothing): index the gallery with these agents, or start "
                "agents with that CLIP"
            )
        self._opened[key] = opened  # the ones used last are kept
        while len(self._opened) > _KEPT:
            self._opened.pop(next(iter(self._opened)), None)
        return opened

    def _latest_of(self, gallery: str, captioner: Identity, clip: Identity) -> str:
        made_by = (gallery, json.dumps([captioner, clip], sort_keys=True))
        key, until_s = self._latest.get(made_by, ("", 0.0))
        if time.monotonic() < until_s:
            return key
        open_gallery(self._settings.galleries_folder, gallery)  # its own words when there is none
        folder = self._settings.image_db_folder
        retries = latest_version(folder, gallery, captioner, clip)
        if retries is not None:
            key = database_key(gallery, captioner, clip, retries)
        else:
            key = latest_with_given_captions(folder, gallery, captioner, clip)
        if not key:
            raise DatasetError(
                f"gallery {gallery} has no image database made by the models the agents serve: "
                "index it first"
            )
        self._latest.pop(made_by, None)
        self._latest[made_by] = (key, time.monotonic() + _LATEST_KEPT_S)
        while len(self._latest) > _KEPT:
            self._latest.pop(next(iter(self._latest)), None)
        return key
