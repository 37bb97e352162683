"""API keys: creates them, and finds the caller that a key stands for.

Each process caches the keys. It reads them again after `FRESH_S` seconds and, if that fails, uses the cached ones up to
`STALE_S` seconds, so a revoked key works for that long at most.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from service.domain.key import ANONYMOUS, Caller, Grant, KeyRecord, caller_of, new_key, prefix_of, record_of
from service.errors import InvalidKey, KeyMissing, KeyRefused, StoreUnavailable
from service.store.ports import Keys

FRESH_S: Final = 2.0
STALE_S: Final = 5.0

_NO_DIGEST: Final = b"\0" * 32
"""Compared with if no key has the prefix, so that a wrong prefix takes as long as a wrong secret."""


def create(keys: Keys, grant: Grant, now: datetime | None = None) -> tuple[str, KeyRecord]:
    """Create a key. Returns the key itself, which is not stored, and its record."""
    key = new_key()
    record = record_of(key, grant, now or datetime.now(UTC))
    keys.add(record)
    return key, record


def admit_first(keys: Keys, key: str, grant: Grant, now: datetime | None = None) -> KeyRecord:
    """Store the record of a key that was made elsewhere, unless it is there already; a revoked key stays revoked.

    Raises:
        InvalidKey: the key has the wrong format, or another key has its prefix.
    """
    record = record_of(key, grant, now or datetime.now(UTC))
    existing = next((known for known in keys.all() if known.prefix == record.prefix), None)
    if existing is None:
        keys.add(record)
        return record
    if existing.digest != record.digest:
        raise InvalidKey(f"another key has the prefix {record.prefix}; make a new key, or revoke the other one")
    return existing


class KeyCache:
    """The keys that this process knows.

    Args:
        keys: where they are stored.
        open_without_keys: whether everyone may call as long as no key was ever created.
        clock: monotonic seconds.
    """

    def __init__(self, keys: Keys, *, open_without_keys: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._open_without_keys = open_without_keys
        self._clock = clock
        self._read_at = -float("inf")
        self._records: Mapping[str, KeyRecord] = {}

    @property
    def open(self) -> bool:
        """Whether everyone may call. The first key closes the service for good, even if it is revoked later."""
        return self._open_without_keys and not self._records

    @property
    def fresh(self) -> bool:
        """Whether the cached keys need not be read again."""
        return self._clock() - self._read_at < FRESH_S

    def read(self) -> None:
        """Read the keys again. Blocks.

        Raises:
            StoreUnavailable: they cannot be read, and the cached ones are too old.
        """
        started_s = self._clock()  # the keys are at least as new as this
        try:
            records = self._keys.all()
        except StoreUnavailable:
            if self._clock() - self._read_at < STALE_S:
                return
            raise
        self._records = {record.prefix: record for record in records}
        self._read_at = started_s

    def refresh(self) -> None:
        """Read the keys again unless they are fresh. Blocks; raises as `read`."""
        if not self.fresh:
            self.read()

    def caller(self, key: bytes | None) -> Caller:
        """Return the caller that the key stands for; call `read` first unless `fresh`.

        Raises:
            KeyMissing: there is no key, and one is needed.
            KeyRefused: see `holder`.
        """
        if self.open:
            return ANONYMOUS
        if key is None:
            raise KeyMissing(
                "this service needs a key; send it as 'X-API-Key: KEY' or 'Authorization: Bearer KEY' "
                "(anole: --key or ANOLE_API_KEY)"
            )
        return self.holder(key)

    def holder(self, key: bytes) -> Caller:
        """Return the caller that holds the key, also while everyone may call.

        Raises:
            KeyRefused: the key is unknown, wrong or revoked; the message does not say which.
        """
        record = self._records.get(prefix_of(key) or "")
        expected = _NO_DIGEST if record is None else bytes.fromhex(record.digest)
        matches = hmac.compare_digest(hashlib.sha256(key).digest(), expected)
        if record is None or not matches or record.revoked_at is not None:
            raise KeyRefused("the key is not valid; ask the operator of the service for one")
        return caller_of(record)
