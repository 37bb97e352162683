"""Interfaces of the store, and what its parts share.

Writes happen in this order (see ``version_store.py``): blobs, durably; then the version's row and the aliases in one
transaction. When a method returns, what it wrote survives a kill and a power loss.

Each client's blobs are in a *space* of their own. Deduplication never crosses clients, so neither the duration of a
write nor the deletion of one client tells another client anything.

Removal cannot race with publishing: blobs are removed only within `Catalog.holding` and only if no row needs them, and
a publish checks within its own transaction (`guard`) that its blobs still exist.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from service.domain.client import ClientSettings, ClientSummary
from service.domain.key import KeyRecord
from service.domain.version import AliasMove, Idempotency, Publication, ServedVersion, Version, VersionDraft
from service.errors import StoreUnavailable


def utc_now() -> datetime:
    """Return the time of day in UTC. Use it for display and for ages, not for order."""
    return datetime.now(UTC)


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


class Catalog(Protocol):
    """Clients, versions and aliases. Every method is one transaction.

    Every row has a checksum, which is verified whenever the row is read. In addition to the errors that they name, all
    methods raise VersionCorrupt if a row that they need is damaged.
    """

    def publish(
        self,
        draft: VersionDraft,
        aliases: Sequence[str],
        *,
        guard: Callable[[], None] | None = None,
        idempotency: Idempotency | None = None,
        extends: bool = False,
    ) -> Publication:
        """Record `draft` under the client's next number and move `aliases` to it, all or nothing.

        The first version creates the client. Racing callers get distinct numbers without gaps. If the client's settings
        retain no samples, the version is recorded as one whose samples are not kept.

        Args:
            draft: the version.
            aliases: names of the aliases to move.
            guard: called within the transaction, while no other caller is `holding` the client. If it raises, nothing
                is recorded. It must not call the catalog.
            idempotency: if it is already recorded, nothing is written and its publication is returned.
            extends: whether the draft must extend the current base: the live version, else the newest.

        Raises:
            IdempotencyMismatch: the key is recorded with another body.
            ParentSuperseded: `extends`, and the draft's parent is not the current base; nothing was recorded.
            StoreFull, StoreUnavailable: nothing was recorded.
        """
        ...

    def recall(self, client: str, idempotency: Idempotency) -> Publication | None:
        """Return what was published under that key, or None if nothing was or the client is unknown.

        Raises:
            IdempotencyMismatch: the key is recorded with another body.
        """
        ...

    def clients(self) -> tuple[ClientSummary, ...]:
        """Return all clients, by name."""
        ...

    def names(self) -> tuple[str, ...]:
        """Return the names of all clients, including those with damaged rows."""
        ...

    def client(self, client: str) -> ClientSummary:
        """Return a client. Raises UnknownClient."""
        ...

    def version(self, client: str, number: int) -> Version:
        """Return a version. Raises UnknownClient, UnknownVersion (also if it was deleted)."""
        ...

    def served(self, client: str, reference: str | int) -> ServedVersion:
        """Return what a prediction needs of a version, given its number or an alias; one cheap read.

        Raises:
            UnknownClient, UnknownAlias, UnknownVersion.
        """
        ...

    def revision(self) -> int | None:
        """Return a number that changes with every commit of any process.

        None if it cannot be told much faster than `served` runs.

        Raises:
            StoreUnavailable: the catalog cannot be read.
        """
        ...

    def versions(self, client: str) -> tuple[Version, ...]:
        """Return the versions that are not deleted, oldest first. Raises UnknownClient."""
        ...

    def latest(self, client: str) -> Version | None:
        """Return the newest version that is not deleted, or None. None also for an unknown client."""
        ...

    def alias(self, client: str, alias: str) -> AliasMove:
        """Return the latest move of an alias. Raises UnknownClient, UnknownAlias."""
        ...

    def move_alias(
        self, client: str, alias: str, version: int, *, expected_revision: int | None, reason: str
    ) -> AliasMove:
        """Point the alias at an existing version; with `expected_revision` only if that is its latest revision.

        `expected_revision=0` means "only if the alias does not exist yet"; None means unconditionally.

        Raises:
            UnknownClient, UnknownVersion, AliasConflict.
        """
        ...

    def roll_back(self, client: str, alias: str, *, expected_revision: int | None = None) -> AliasMove:
        """Point the alias at the version before the current one. Repeated calls go further back.

        Deleted versions, and moves that did not change the version, are skipped.

        Raises:
            UnknownClient, UnknownAlias, NothingToRollBackTo, AliasConflict.
        """
        ...

    def history(self, client: str, *, at: datetime | None = None) -> tuple[AliasMove, ...]:
        """Return all alias moves, oldest first; with `at` (UTC) only those made no later. Raises UnknownClient."""
        ...

    def delete_version(self, client: str, number: int) -> Version:
        """Mark a version deleted; its samples and its need of blobs go, its number stays taken.

        Returns:
            The version as it was.

        Raises:
            UnknownClient, UnknownVersion.
            VersionInUse: an alias points at it.
        """
        ...

    def delete_client(self, client: str) -> int:
        """Delete every row of the client, including damaged ones, and return the number of its versions.

        Raises:
            UnknownClient.
        """
        ...

    def settings(self, client: str) -> ClientSettings:
        """Return the client's settings, or the defaults. Raises UnknownClient."""
        ...

    def update_settings(self, client: str, settings: ClientSettings) -> None:
        """Replace the client's settings; create the client if there is none.

        Settings that retain no samples apply to all versions at once: none needs its samples any more.
        """
        ...

    def holding(self, client: str) -> AbstractContextManager[frozenset[str]]:
        """Block the client's publishes and deletions within the context, which gets the digests that its rows need.

        The client need not exist. The context must be short and must not call the catalog.

        Raises:
            StoreUnavailable: other writers held the client for too long.
        """
        ...

    def export(self, path: Path) -> None:
        """Write everything, as of one moment, into a new file, without stopping the service.

        Raises:
            StoreFull, StoreUnavailable: the file is incomplete.
        """
        ...

    def copy_in(self, path: Path) -> AbstractContextManager[Catalog]:
        """Open a file that `export` wrote; a file of an earlier release is upgraded."""
        ...

    def load(self, path: Path) -> None:
        """Insert everything from a file that `export` wrote, all or nothing.

        Raises:
            InvalidRequest: the catalog already has clients.
        """
        ...

    def problems(self) -> tuple[str, ...]:
        """Return the damage in the database's files, in rows and between rows; empty if there is none."""
        ...

    def ping(self) -> None:
        """Raises StoreUnavailable if the catalog cannot be read."""
        ...

    def close(self) -> None:
        """Close connections; the catalog is not used afterwards."""
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
