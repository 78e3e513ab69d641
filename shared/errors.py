"""Every error the project raises on purpose, under one root."""

from __future__ import annotations

import msgspec

MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises on bytes, of JSON or msgpack, that are no record of the kind asked for."""


class XRError(Exception):
    """Root of all errors of this project."""


class TransientError(XRError):
    """It may work when tried again (a connection, a full queue): retry with back-off."""


class PermanentError(XRError):
    """Trying again cannot help (bad configuration, unknown name): report and stop."""


class ConfigurationError(PermanentError):
    """A setting, profile or path is wrong; the message says which, where, and what is right."""


class DatasetError(PermanentError):
    """A data set's files are missing or malformed; the message says what, and where to put it."""


class ItemError(XRError):
    """One item of a batch failed (a broken image, an unusable answer); its batch goes on."""


class DecodeError(XRError):
    """Bytes that are no valid message. They are parked for inspection, never retried.

    Attributes:
        payload: the bytes as received.
    """

    def __init__(self, payload: bytes, cause: str) -> None:
        super().__init__(cause)
        self.payload = payload


class NewerVersionError(DecodeError):
    """A message this program is too old to read. It is not malformed: a newer one can.

    Attributes:
        version: the schema version it needs.
    """

    def __init__(self, payload: bytes, version: int, known: int) -> None:
        super().__init__(payload, f"schema version {version}, this program reads up to {known}")
        self.version = version
