"""API keys, their scopes and the clients they can access.

A key is ``anole_``, an eight-character identifier, ``_`` and 256 random bits. Only the prefix (with the identifier) and
the SHA-256 of the whole key are stored. A digest of 256 random bits cannot be searched, so it needs no salt and no slow
hash.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from service.domain.client import validate_client_name
from service.errors import InvalidKey

Scope = Literal["predict", "adapt", "admin"]

SCOPES: Final[tuple[Scope, ...]] = ("predict", "adapt", "admin")
EVERY_CLIENT: Final = "*"

_KEY = re.compile(rb"(anole_[a-z0-9]{8})_[A-Za-z0-9_-]{43,128}")
_FORMAT: Final = "anole_, eight of a-z and 0-9, _, then 43 to 128 of A-Z, a-z, 0-9, '_' and '-'"
_NAME = re.compile(r"[ -~]{1,64}")
_SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is stored of a key.

    Attributes:
        prefix: identifies the key; not secret.
        digest: SHA-256 (hex) of the whole key.
        name: purpose of the key, for people.
        scopes: what the key may do.
        clients: names of the clients that it can access, or `EVERY_CLIENT` alone.
        created_at: UTC.
        revoked_at: UTC, or None while the key is valid.
    """

    prefix: str
    digest: str
    name: str
    scopes: tuple[Scope, ...]
    clients: tuple[str, ...]
    created_at: datetime
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request.

    Attributes:
        prefix: prefix of its key; empty if the service needs no key.
        scopes: what the caller may do.
        clients: clients that it can access; None is all.
        name: purpose of its key, for people; empty if the service needs no key.
    """

    prefix: str
    scopes: frozenset[Scope]
    clients: frozenset[str] | None
    name: str = ""

    def can_access(self, client: str) -> bool:
        """Return whether the caller can access the client."""
        return self.clients is None or client in self.clients


ANONYMOUS: Final = Caller("", frozenset(SCOPES), None)
"""The caller of a service that needs no key."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The purpose and permissions of a new key.

    Raises:
        InvalidKey, InvalidName: the name, a scope or a client is not valid.
    """

    name: str
    scopes: tuple[Scope, ...]
    clients: tuple[str, ...]

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidKey(f"the key name is {self.name[:80]!r}; use 1 to 64 printable ASCII characters")
        unknown = [scope for scope in self.scopes if scope not in SCOPES]
        if unknown or not self.scopes:
            raise InvalidKey(f"the scopes are {unknown or 'none'}; use one or more of {', '.join(SCOPES)}")
        if not self.clients or (EVERY_CLIENT in self.clients and len(self.clients) > 1):
            raise InvalidKey(f"the clients are {self.clients}; use client names, or {EVERY_CLIENT!r} alone for all")
        for client in self.clients:
            if client != EVERY_CLIENT:
                validate_client_name(client)


def new_key(entropy: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """Return a new key. It is not stored anywhere."""
    identifier = base64.b32encode(entropy(5)).decode().lower()
    secret = base64.urlsafe_b64encode(entropy(_SECRET_BYTES)).decode().rstrip("=")
    return f"anole_{identifier}_{secret}"


def record_of(key: str, grant: Grant, created_at: datetime) -> KeyRecord:
    """Return what is stored of a key.

    Raises:
        InvalidKey: the key has the wrong format; the message does not repeat it.
    """
    raw = key.encode("utf-8", "surrogatepass")
    prefix = prefix_of(raw)
    if prefix is None:
        raise InvalidKey(f"the key has the wrong format; a key is {_FORMAT}")
    scopes = tuple(scope for scope in SCOPES if scope in grant.scopes)
    clients = tuple(dict.fromkeys(grant.clients))
    return KeyRecord(prefix, hashlib.sha256(raw).hexdigest(), grant.name, scopes, clients, created_at)


def prefix_of(key: bytes) -> str | None:
    """Return the prefix of a key, or None if it is not in the format of one."""
    found = _KEY.fullmatch(key)
    return None if found is None else found[1].decode()


def caller_of(record: KeyRecord) -> Caller:
    """Return the caller that a key stands for."""
    clients = None if EVERY_CLIENT in record.clients else frozenset(record.clients)
    return Caller(record.prefix, frozenset(record.scopes), clients, record.name)


def as_scopes(texts: Iterable[str]) -> tuple[Scope, ...]:
    """Convert texts to scopes.

    Raises:
        InvalidKey: a text is not the name of a scope.
    """
    words = list(texts)
    unknown = sorted(set(words).difference(SCOPES))
    if unknown:
        raise InvalidKey(f"there are no scopes {unknown}; use {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in words)
