"""What checking, collecting, backing up and erasing found and did."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Erasure:
    """What was deleted together with a client.

    Attributes:
        client: client name.
        versions: number of versions, without those that were deleted before.
        blobs: number of stored samples and weights, published or not.
        blobs_bytes: their total size.
    """

    client: str
    versions: int
    blobs: int
    blobs_bytes: int


@dataclass(frozen=True, slots=True)
class CollectReport:
    """What a collection removed and kept.

    Attributes:
        removed: number of blobs that no version needed.
        removed_bytes: their total size.
        leftovers: number of files left by interrupted writes.
        kept: number of blobs that remain, because a version needs them or because they are new.
        retired: number of versions deleted because their clients keep only so many.
    """

    removed: int
    removed_bytes: int
    leftovers: int
    kept: int
    retired: int = 0


@dataclass(frozen=True, slots=True)
class Damage:
    """A blob that is missing or does not match its digest, and a version that needs it."""

    client: str
    version: int
    digest: str
    problem: str


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check of the whole store read and found.

    Attributes:
        versions: number of versions.
        blobs: number of different blobs that they need.
        damages: blobs that are missing or damaged.
        catalog_problems: inconsistencies that the database reports.
    """

    versions: int
    blobs: int
    damages: tuple[Damage, ...]
    catalog_problems: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether nothing is missing or damaged."""
        return not self.damages and not self.catalog_problems


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a backup contains, or what was restored from one.

    Attributes:
        clients: number of clients.
        versions: number of their versions.
        blobs: number of different blobs that the versions need, counted by client.
        added: number of these that were copied because they were not there yet.
        damages: blobs of which the store itself has no good copy; everything else is there.
    """

    clients: int
    versions: int
    blobs: int
    added: int
    damages: tuple[Damage, ...]
