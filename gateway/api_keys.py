"""API keys: who may do what. The file holds only hashes; a key is shown once, when it is made.

A key is `xr_<id>_<secret>`, the secret 32 random bytes: what a plain SHA-256 of so much randomness
came from cannot be guessed, so that no slow hash is needed at every request.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import msgspec

from shared import atomic_files
from shared.errors import MALFORMED, ConfigurationError

Scope = Literal["read", "search", "bench", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
FILE = "api_keys.json"
_KEY = re.compile(r"xr_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a key.

    Attributes:
        digest: SHA-256 of the secret, hexadecimal.
        expires_at: ISO 8601, UTC; empty = never.
    """

    id: str
    name: str
    digest: str
    scopes: tuple[Scope, ...]
    created_at: str
    expires_at: str = ""
    revoked: bool = False

    @property
    def state(self) -> Literal["valid", "expired", "revoked"]:
        if self.revoked:
            return "revoked"
        now = datetime.datetime.now(datetime.UTC)
        expired = self.expires_at and datetime.datetime.fromisoformat(self.expires_at) <= now
        return "expired" if expired else "valid"


class ApiKeys:
    """The keys in XR_HOME/api_keys.json, read again whenever the file has changed."""

    def __init__(self, home: Path) -> None:
        self._path = home / FILE
        self._stamp: tuple[int, int] | None = None
        self._keys: dict[str, ApiKey] = {}

    def all(self) -> list[ApiKey]:
        """Every key that was ever made, oldest first. Raises: ConfigurationError: damaged."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            self._keys, self._stamp = {}, None
            return []
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp != self._stamp:
            try:
                known = msgspec.json.decode(self._path.read_bytes(), type=list[ApiKey])
            except MALFORMED as error:
                raise ConfigurationError(f"{self._path}: {error}") from error
            self._keys, self._stamp = {key.id: key for key in known}, stamp
        return list(self._keys.values())

    def find(self, token: str) -> ApiKey | None:
        """The key a token is, valid or not; None where it is none of ours."""
        match = _KEY.fullmatch(token)
        self.all()
        key = self._keys.get(match[1]) if match else None
        if match is None or key is None:
            return None
        return key if hmac.compare_digest(key.digest, _digest(match[2])) else None

    def create(
        self, name: str, scopes: Sequence[str], lifetime: datetime.timedelta | None = None
    ) -> tuple[ApiKey, str]:
        """A new key, and the token that is told once.

        Raises: ConfigurationError: no scope, or an unknown one.
        """
        wrong = [scope for scope in scopes if scope not in SCOPES]
        if wrong or not scopes:
            shown = f"{wrong[0]!r} is no scope" if wrong else "a key needs a scope"
            raise ConfigurationError(f"{shown}: use {', '.join(SCOPES)}")
        now = datetime.datetime.now(datetime.UTC)
        secret = secrets.token_urlsafe(32)
        key = ApiKey(
            id=secrets.token_hex(6),
            name=name,
            digest=_digest(secret),
            scopes=tuple(scope for scope in SCOPES if scope in scopes),
            created_at=now.isoformat(timespec="seconds"),
            expires_at="" if lifetime is None else (now + lifetime).isoformat(timespec="seconds"),
        )
        self._write([*self.all(), key])
        return key, f"xr_{key.id}_{secret}"

    def revoke(self, key_id: str) -> ApiKey:
        """Raises: ConfigurationError: there is no such key."""
        keys = self.all()
        if key_id not in self._keys:
            raise ConfigurationError(f"no key {key_id!r}; `xr keys list` shows those there are")
        revoked = msgspec.structs.replace(self._keys[key_id], revoked=True)
        self._write([revoked if key.id == key_id else key for key in keys])
        return revoked

    def _write(self, keys: Sequence[ApiKey]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_files.replacing(self._path) as temporary:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(keys)) + b"\n")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
