"""Use case: keys are made, listed and revoked, and whoever presents one is recognised. Knows no HTTP and no SQL.

Every process keeps what it read of the keys for `FRESH_S` seconds at most, and believes it for no more than `STALE_S`
where they cannot be read again: so long a revoked key may go on.
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
"""Compared with where no key has that prefix, so that a wrong prefix takes as long as a wrong secret."""


def create(keys: Keys, grant: Grant, now: datetime | None = None) -> tuple[str, KeyRecord]:
    """Make a key and keep its record. Returns the key itself, which is kept nowhere, and the record."""
    key = new_key()
    record = record_of(key, grant, now or datetime.now(UTC))
    keys.add(record)
    return key, record


def admit_first(keys: Keys, key: str, grant: Grant, now: datetime | None = None) -> KeyRecord:
    """Keep the record of a key that was made elsewhere, unless it is kept already; a revoked one stays revoked.

    Raises:
        InvalidKey: it has not the form of a key, or another key has its naming part.
    """
    record = record_of(key, grant, now or datetime.now(UTC))
    kept = next((known for known in keys.all() if known.prefix == record.prefix), None)
    if kept is None:
        keys.add(record)
        return record
    if kept.digest != record.digest:
        raise InvalidKey(f"another key is called {record.prefix}; make a new one, or revoke that one")
    return kept


class KeyCache:
    """The keys as this process knows them.

    Args:
        keys: where they are kept.
        open_without_keys: whether anybody may call while no key was ever made.
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
        """Whether anybody may call. A key that was ever made closes it, revoked or not."""
        return self._open_without_keys and not self._records

    @property
    def fresh(self) -> bool:
        """Whether what is known is young enough not to be read again."""
        return self._clock() - self._read_at < FRESH_S

    def read(self) -> None:
        """Read the keys again. Blocks.

        Raises:
            StoreUnavailable: they cannot be read, and what is known is too old to go by.
        """
        asked_at = self._clock()  # what is read is at least as new as the question
        try:
            records = self._keys.all()
        except StoreUnavailable:
            if self._clock() - self._read_at < STALE_S:
                return
            raise
        self._records = {record.prefix: record for record in records}
        self._read_at = asked_at

    def caller(self, presented: bytes | None) -> Caller:
        """Who presents that key; call `read` first when not `fresh`.

        Raises:
            KeyMissing: none was presented and one is needed.
            KeyRefused: it is unknown, wrong or revoked; which of these is not told.
        """
        if self.open:
            return ANONYMOUS
        if presented is None:
            raise KeyMissing(
                "this service needs a key; send it as 'X-API-Key: KEY' or 'Authorization: Bearer KEY' "
                "(anole: --key or ANOLE_API_KEY)"
            )
        record = self._records.get(prefix_of(presented) or "")
        kept = _NO_DIGEST if record is None else bytes.fromhex(record.digest)
        matches = hmac.compare_digest(hashlib.sha256(presented).digest(), kept)
        if record is None or not matches or record.revoked_at is not None:
            raise KeyRefused("the key is not valid here; ask whoever runs the service for one")
        return caller_of(record)
