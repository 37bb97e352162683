"""What the use cases need of a store, as Protocols. Knows no database, no file system and no weights format.

Order of writes (``weight_store.py`` keeps it): blobs, durable; then the version's row and the aliases, in one
transaction. An adapter acknowledges by returning; whatever it has returned from survives a kill and a power loss.

Blobs live in *spaces*, one a client, so that storing once what is the same never can_access across clients: neither the
time a write takes nor the deletion of one client tells or costs another anything.

Removing is safe against publishing by one rule: blobs are removed only inside ``Catalog.holding`` and only if no row
needs them, and a publish looks inside its own transaction (`guard`) that its blobs are still there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from service.domain.client import ClientSettings, ClientSummary
from service.domain.key import KeyRecord
from service.domain.version import AliasMove, Idempotency, Publication, ServedVersion, Version, VersionDraft


@dataclass(frozen=True, slots=True)
class BlobEntry:
    """A blob as a listing shows it: its digest, its size, and how long ago it was last put."""

    digest: str
    size_bytes: int
    age_s: float


class Blobs(Protocol):
    """Immutable content in spaces, addressed by its SHA-256 (hex). A space exists while there is something in it."""

    def put(self, space: str, contents: Sequence[bytes]) -> tuple[str, ...]:
        """Store `contents` durably and return their digests, in order; what is already there is not written again.

        A blob that is already there but damaged is replaced by the good content. Putting restarts a blob's age.

        Raises:
            StoreFull: no space left.
            StoreUnavailable: a write or a sync failed; some of the contents may have been stored.
        """
        ...

    def get(self, space: str, digest: str) -> bytes:
        """Return the content, verified against `digest`.

        Raises:
            VersionCorrupt: missing, or its bytes do not match.
            StoreUnavailable: it could not be read.
        """
        ...

    def missing(self, space: str, digests: Collection[str]) -> frozenset[str]:
        """Those of `digests` that are not there; looks, does not read."""
        ...

    def delete(self, space: str, digests: Collection[str]) -> None:
        """Remove the blobs that are there."""
        ...

    def sweep(self, space: str, *, older_than_s: float) -> int:
        """Remove what cut-off writes left behind, and the space if it is empty; both only from that age on.

        Returns:
            How many leftovers were removed.
        """
        ...

    def spaces(self) -> Iterator[str]:
        """Yield the name of every space."""
        ...

    def entries(self, space: str) -> Iterator[BlobEntry]:
        """Yield what a space holds; nothing for a space that does not exist."""
        ...

    def ping(self) -> None:
        """Raises StoreUnavailable when blobs cannot be reached."""
        ...


class Catalog(Protocol):
    """Clients, versions and aliases: rows and transactions. Every method is one transaction.

    What a row says is held to the row's seal whenever it is read: besides what they name, all methods raise
    VersionCorrupt where a row that they need is damaged, and none gives back what was not written.
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
        """Give `draft` the client's next number, record it, and move `aliases` to it, all or nothing.

        Creates the client on its first version. Racing callers get distinct, gapless numbers. `guard` runs inside
        the transaction, while no one is `holding` the client; what it raises undoes the publish. It must not call
        the catalog. With an `idempotency` that is already recorded nothing is written: its publication is returned.
        Where the client's settings retain no samples, the version is recorded as one whose samples are not kept.

        Raises:
            IdempotencyMismatch: the key is recorded with another body.
            ParentSuperseded: the draft `extends` its parent, which is no longer the version to build on: the live
                one, else the newest; nothing was recorded.
            StoreFull, StoreUnavailable: nothing was recorded.
        """
        ...

    def recall(self, client: str, idempotency: Idempotency) -> Publication | None:
        """What was published under that key, or None if nothing was (or the client is unknown).

        Raises:
            IdempotencyMismatch: the key is recorded with another body.
        """
        ...

    def clients(self) -> tuple[ClientSummary, ...]:
        """All clients, by name."""
        ...

    def names(self) -> tuple[str, ...]:
        """The names of all clients, also where their rows are damaged."""
        ...

    def client(self, client: str) -> ClientSummary:
        """Raises UnknownClient."""
        ...

    def version(self, client: str, number: int) -> Version:
        """Raises UnknownClient, UnknownVersion (also for a deleted version)."""
        ...

    def served(self, client: str, reference: str | int) -> ServedVersion:
        """What a prediction needs of the version that an alias points at, or that has a number; one cheap read.

        Raises:
            UnknownClient, UnknownAlias, UnknownVersion.
        """
        ...

    def revision(self) -> int | None:
        """A number that differs from an earlier one if anything was committed in between, by whichever process.

        None where that cannot be told in a fraction of what `served` takes.

        Raises:
            StoreUnavailable: the catalog cannot be read.
        """
        ...

    def versions(self, client: str) -> tuple[Version, ...]:
        """Versions not deleted, oldest first. Raises UnknownClient."""
        ...

    def latest(self, client: str) -> Version | None:
        """The newest version not deleted, or None for a client without any or an unknown client."""
        ...

    def alias(self, client: str, alias: str) -> AliasMove:
        """The latest move of that alias. Raises UnknownClient, UnknownAlias."""
        ...

    def move_alias(
        self, client: str, alias: str, version: int, *, expected_revision: int | None, reason: str
    ) -> AliasMove:
        """Point the alias at an existing version; with `expected_revision` only if that is still its latest revision.

        `expected_revision=0` means "only if the alias does not exist yet"; None means unconditionally.

        Raises:
            UnknownClient, UnknownVersion, AliasConflict.
        """
        ...

    def roll_back(self, client: str, alias: str, *, expected_revision: int | None = None) -> AliasMove:
        """Point the alias at the version it pointed at before the current one; again goes further back, not to and fro.

        Deleted versions, and moves that did not change the version, are passed over.

        Raises:
            UnknownClient, UnknownAlias, NothingToRollBackTo, AliasConflict.
        """
        ...

    def history(self, client: str, *, at: datetime | None = None) -> tuple[AliasMove, ...]:
        """All alias moves, oldest first; with `at` (UTC) only those made no later. Raises UnknownClient."""
        ...

    def delete_version(self, client: str, number: int) -> Version:
        """Mark a version deleted and drop its samples and its need of blobs; its number stays taken.

        Returns:
            The version as it was.

        Raises:
            UnknownClient, UnknownVersion, VersionInUse (an alias points at it).
        """
        ...

    def delete_client(self, client: str) -> int:
        """Remove every row of the client, damaged ones too, and say how many versions it had. Raises UnknownClient."""
        ...

    def settings(self, client: str) -> ClientSettings:
        """What the client chose, or the defaults. Raises UnknownClient."""
        ...

    def update_settings(self, client: str, settings: ClientSettings) -> None:
        """Put these settings in place of all that the client chose before; makes the client if there is none.

        Settings that retain no samples take effect on all versions at once: none needs its samples any more.
        """
        ...

    def holding(self, client: str) -> AbstractContextManager[frozenset[str]]:
        """Keep the client's publishes and deletions out while the context lasts; enter with the digests its rows need.

        The client need not exist. The context must not call the catalog, and should be short.

        Raises:
            StoreUnavailable: it could not be had in time.
        """
        ...

    def export(self, path: Path) -> None:
        """Write everything, as of one moment, into a new file, while others go on.

        Raises:
            StoreFull, StoreUnavailable: the file is of no use.
        """
        ...

    def copy_in(self, path: Path) -> AbstractContextManager[Catalog]:
        """Open a file that `export` wrote; one of an earlier release is brought to this one's tables."""
        ...

    def load(self, path: Path) -> None:
        """Take over everything from a file that `export` wrote, all or nothing.

        Raises:
            InvalidRequest: there are clients already.
        """
        ...

    def problems(self) -> tuple[str, ...]:
        """What is wrong with the database's files, with single rows and between them; empty if it is whole."""
        ...

    def ping(self) -> None:
        """Raises StoreUnavailable when the catalog cannot be read."""
        ...

    def close(self) -> None:
        """Let go of connections; the catalog is not used afterwards."""
        ...


class Keys(Protocol):
    """What is kept of keys. Every method is one transaction; nothing is cached."""

    def add(self, record: KeyRecord) -> None:
        """Keep a record, durably.

        Raises:
            InvalidKey: another key has that prefix.
        """
        ...

    def all(self) -> tuple[KeyRecord, ...]:
        """Every record, revoked ones too, in the order they were made."""
        ...

    def revoke(self, prefix: str) -> KeyRecord:
        """Mark a key revoked, durably; one that was revoked before stays as it is.

        Raises:
            UnknownKey: there is none of that prefix.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...
