"""Who may do what: keys, scopes and the clients they reach, as plain values. No HTTP, no database, no clock.

A key is ``anole_`` + eight letters that name it + ``_`` + 256 random bits. Kept of it are the naming part and the
SHA-256 of the whole: a digest of 256 random bits cannot be searched, so it needs no salt and no slow hash.
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

from service.domain.names import validate_client_name
from service.errors import InvalidKey

Scope = Literal["predict", "adapt", "admin"]

SCOPES: Final[tuple[Scope, ...]] = ("predict", "adapt", "admin")
EVERY_CLIENT: Final = "*"

_KEY = re.compile(rb"(anole_[a-z0-9]{8})_[A-Za-z0-9_-]{43,128}")
_RULE: Final = "a key is anole_, eight of a-z and 0-9, _, and 43 to 128 of A-Z, a-z, 0-9, '_' and '-'"
_NAME = re.compile(r"[ -~]{1,64}")
_SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is kept of a key.

    Attributes:
        prefix: its naming part, which may be shown.
        digest: SHA-256 (hex) of the whole key.
        name: what it is for, in its maker's words.
        scopes: what it may do.
        clients: names of the clients it can_access, or `EVERY_CLIENT` alone.
        created_at: UTC.
        revoked_at: UTC, or None while it is good.
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
    """Who sends a request, as far as it matters.

    Attributes:
        prefix: of its key; empty where the service is open.
        scopes: what it may do.
        clients: whom it can_access; None: everybody.
    """

    prefix: str
    scopes: frozenset[Scope]
    clients: frozenset[str] | None

    def can_access(self, client: str) -> bool:
        """Whether the client is one of its own."""
        return self.clients is None or client in self.clients


ANONYMOUS: Final = Caller("", frozenset(SCOPES), None)
"""Whoever calls a service that needs no key."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a new key is for and what it may do; checked when it is made.

    Raises:
        InvalidKey, InvalidName: a name, a scope or a client that is not allowed.
    """

    name: str
    scopes: tuple[Scope, ...]
    clients: tuple[str, ...]

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidKey(f"a key is called {self.name[:80]!r}; allowed are 1 to 64 visible ASCII characters")
        unknown = [scope for scope in self.scopes if scope not in SCOPES]
        if unknown or not self.scopes:
            raise InvalidKey(f"scopes {unknown or 'none'} were given; allowed are one or more of {', '.join(SCOPES)}")
        if not self.clients or (EVERY_CLIENT in self.clients and len(self.clients) > 1):
            raise InvalidKey(f"clients {self.clients} were given; allowed are names, or {EVERY_CLIENT!r} alone for all")
        for client in self.clients:
            if client != EVERY_CLIENT:
                validate_client_name(client)


def new_key(entropy: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """A fresh key. It is shown once and kept nowhere."""
    naming = base64.b32encode(entropy(5)).decode().lower()
    secret = base64.urlsafe_b64encode(entropy(_SECRET_BYTES)).decode().rstrip("=")
    return f"anole_{naming}_{secret}"


def record_of(key: str, grant: Grant, created_at: datetime) -> KeyRecord:
    """What is kept of a key.

    Raises:
        InvalidKey: it has not the form of one; the message does not repeat it.
    """
    raw = key.encode("utf-8", "surrogatepass")
    prefix = prefix_of(raw)
    if prefix is None:
        raise InvalidKey(f"the key has not the form of one: {_RULE}")
    scopes = tuple(scope for scope in SCOPES if scope in grant.scopes)
    clients = tuple(dict.fromkeys(grant.clients))
    return KeyRecord(prefix, hashlib.sha256(raw).hexdigest(), grant.name, scopes, clients, created_at)


def prefix_of(key: bytes) -> str | None:
    """The naming part of a key, or None for what is none."""
    found = _KEY.fullmatch(key)
    return None if found is None else found[1].decode()


def caller_of(record: KeyRecord) -> Caller:
    """Who sends requests with that key."""
    clients = None if EVERY_CLIENT in record.clients else frozenset(record.clients)
    return Caller(record.prefix, frozenset(record.scopes), clients)


def as_scopes(texts: Iterable[str]) -> tuple[Scope, ...]:
    """Words to scopes.

    Raises:
        InvalidKey: a word that names none.
    """
    words = list(texts)
    unknown = sorted(set(words).difference(SCOPES))
    if unknown:
        raise InvalidKey(f"scopes {unknown} do not exist; allowed are {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in words)
