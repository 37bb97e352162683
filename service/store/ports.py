"""Interfaces of the store, and the rules that their implementations share.

Writes happen in this order (see ``version_store.py``): blobs, durably; then the version's row and the aliases in one
transaction. When a method returns, what it wrote survives a kill and a power loss.

Each client's blobs are in a *space* of their own. Deduplication never crosses clients, so neither the duration of a
write nor the deletion of one client tells another client anything.

Removal cannot race with publishing: blobs are removed only within `Catalog.holding` and only if no row needs them, and
a publish checks within its own transaction (`guard`) that its blobs still exist.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol, TypeVar

from sqlalchemy import Connection

from service.domain.client import validate_client_name
from service.domain.job import JobRecord, JobState, JobUpdate
from service.domain.key import KeyRecord
from service.errors import InvalidName, StoreUnavailable, VersionCorrupt

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_PARALLEL: Final = 16

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")

ALL_CLIENTS: Final = "*"
"""The scope of a transaction that may change everything, the tables themselves included. No client has this name."""


@dataclass(frozen=True, slots=True)
class BlobEntry:
    """A blob in a listing: its digest, its size, and the time since it was last put."""

    digest: str
    size_bytes: int
    age_s: float


class Blobs(Protocol):
    """Immutable content in spaces, addressed by its SHA-256 (hex). A space exists while it holds something."""

    def put(self, space: str, contents: Sequence[bytes]) -> tuple[str, ...]:
        """Store contents durably and return their digests, in order. Existing blobs are not written again.

        An existing blob that is damaged is replaced. Putting a blob resets its age.

        Raises:
            StoreFull: no space left.
            StoreUnavailable: a write or a sync failed; some of the contents may have been stored.
        """
        ...

    def get(self, space: str, digest: str) -> bytes:
        """Return the content, verified against `digest`.

        Raises:
            VersionCorrupt: the blob is missing, or its bytes do not match.
            StoreUnavailable: it could not be read.
        """
        ...

    def missing(self, space: str, digests: Collection[str]) -> frozenset[str]:
        """Return those of `digests` that do not exist, without reading any content."""
        ...

    def delete(self, space: str, digests: Collection[str]) -> None:
        """Delete the blobs that exist."""
        ...

    def sweep(self, space: str, *, older_than_s: float) -> int:
        """Delete the leftovers of interrupted writes, and the space if it is empty, from that age on.

        Returns:
            The number of leftovers deleted.
        """
        ...

    def spaces(self) -> Iterator[str]:
        """Yield the name of every space."""
        ...

    def entries(self, space: str) -> Iterator[BlobEntry]:
        """Yield the blobs of a space; nothing for a space that does not exist."""
        ...

    def ping(self) -> None:
        """Raises StoreUnavailable if blobs cannot be read and written."""
        ...


def sha256(content: bytes) -> str:
    """Return the digest that names a blob, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def is_digest(name: str) -> bool:
    """Whether a file or an object with this name is a blob."""
    return _DIGEST.fullmatch(name) is not None


def validate_digest(digest: str) -> str:
    """Return the digest. Raises VersionCorrupt if it is not a SHA-256 in hexadecimal."""
    if not is_digest(digest):
        raise VersionCorrupt(f"{digest[:80]!r} is not a SHA-256 in hexadecimal; the row that holds it is damaged")
    return digest


def is_space(name: str) -> bool:
    """Whether a folder or a prefix with this name is a space; others, such as lost+found, are ignored."""
    try:
        return validate_client_name(name) == name
    except InvalidName:
        return False


def missing_blob(space: str, digest: str) -> VersionCorrupt:
    """Return the error for a blob that does not exist."""
    return VersionCorrupt(f"blob {digest} of {space!r} is missing; restore it from a backup")


def verify_content(content: bytes, space: str, digest: str) -> bytes:
    """Return the content. Raises VersionCorrupt if it does not match the digest."""
    if sha256(content) != digest:
        raise VersionCorrupt(
            f"blob {digest} of {space!r} is damaged: its {len(content)} bytes do not match its digest; "
            "restore it from a backup"
        )
    return content


def run_parallel(call: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return the results in order. The calls run in parallel, because they mostly wait."""
    listed = list(items)
    if len(listed) < 2:
        return [call(item) for item in listed]
    with ThreadPoolExecutor(min(len(listed), MAX_PARALLEL), "anole-blobs") as pool:
        return list(pool.map(call, listed))


class Database(Protocol):
    """Transactions. Leaving a context commits, an exception rolls back; database errors become StoreUnavailable."""

    def reading(self) -> AbstractContextManager[Connection]:
        """Open one consistent snapshot of everything that is committed.

        Raises:
            StoreUnavailable: busy for too long, or not readable.
        """
        ...

    def writing(self, scope: str, *, erasing: bool = False) -> AbstractContextManager[Connection]:
        """Open a transaction that excludes other writers of the same scope until it commits.

        Args:
            scope: a client's name, if only rows of that client are read and changed; or `ALL_CLIENTS`.
            erasing: also remove what the transaction deletes from the database's files, as soon as the database can.

        Raises:
            StoreFull: no space left.
            StoreUnavailable: busy for too long, or not writable.
        """
        ...

    def revision(self) -> int | None:
        """Return a number that changes with every commit of any process.

        None where the database cannot tell much faster than a query runs; this is the default.

        Raises:
            StoreUnavailable: as `reading`.
        """
        return None

    def snapshot(self) -> AbstractContextManager[Database]:
        """Open what is committed now, to be read for a long time without holding up writers.

        This default is for databases whose readers never do.

        Raises:
            StoreUnavailable: as `reading`.
        """
        return nullcontext(self)

    def problems(self) -> tuple[str, ...]:
        """Return the damage that the database finds in its own files and references; empty if there is none."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


class Keys(Protocol):
    """Records of API keys. Every method is one transaction; nothing is cached."""

    def add(self, record: KeyRecord) -> None:
        """Store a record, durably.

        Raises:
            InvalidKey: another key has that prefix.
        """
        ...

    def all(self) -> tuple[KeyRecord, ...]:
        """Return every record, revoked ones included, in order of creation."""
        ...

    def revoke(self, prefix: str) -> KeyRecord:
        """Mark a key revoked, durably; an earlier revocation keeps its time.

        Raises:
            UnknownKey: there is no key with that prefix.
        """
        ...

    def close(self) -> None:
        """Close connections."""
        ...


class JobRecords(Protocol):
    """Jobs of all processes. Every method is one transaction; nothing is cached.

    A job whose worker does not renew it for `LEASE_S` fails; the next reader records that.
    """

    def add(self, job: JobRecord) -> None:
        """Store a job, and delete jobs that ended long ago.

        Raises:
            IdempotencyInFlight: a job of the client with the same key runs.
        """
        ...

    def get(self, job_id: str) -> JobRecord | None:
        """Return a job, or None if there is none."""
        ...

    def renew(self, worker: str, updates: Sequence[JobUpdate]) -> Mapping[str, JobState | None]:
        """Write the progress of jobs of one worker and renew their leases, but not of those whose row is damaged.

        Returns:
            The state of each job that another process has ended; None if it was deleted. These are not changed.
        """
        ...

    def ended(self, job_ids: Collection[str]) -> Mapping[str, JobState | None]:
        """Return the state of each of these jobs that has ended; None if it was deleted."""
        ...

    def end(self, update: JobUpdate) -> bool:
        """End a job. Returns False if it does not exist or has ended; it is not changed then."""
        ...

    def remove(self, job_id: str) -> None:
        """Delete a job, if it exists."""
        ...


class SyncFailures:
    """Ends all writes of a store after a failed sync; reads continue. Thread-safe.

    After a failed sync the kernel may drop the pages that it could not write and let the next sync succeed, so a retry
    proves nothing. See docs/decisions/0052-failed-sync-ends-writes.md.

    Args:
        on_failure: called once with a description of the first failure; it must neither raise nor wait.
    """

    def __init__(self, on_failure: Callable[[str], None] = lambda _reason: None) -> None:
        self._on_failure = on_failure
        self._reason: str | None = None

    def record(self, reason: str) -> None:
        """Record a failed sync; from now on `check` raises."""
        if self._reason is None:
            self._reason = reason
            self._on_failure(reason)

    def check(self, target: str) -> None:
        """Raises StoreUnavailable if a sync has failed. `target` is what the caller wants to write to."""
        if self._reason is not None:
            raise StoreUnavailable(
                f"an earlier write could not be made durable ({self._reason}), so {target} accepts no more writes; "
                "check the disk, then restart the service; reads continue"
            )


def utc_now() -> datetime:
    """Return the time of day in UTC. Use it for display and for ages, not for order."""
    return datetime.now(UTC)
