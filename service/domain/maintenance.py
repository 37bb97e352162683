"""What looking after a store did and found. Plain frozen values; no I/O."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Erasure:
    """What the deletion of a client took away.

    Attributes:
        client: client name.
        versions: how many versions it had, those deleted before not counted.
        blobs: samples and weights that were stored for it, published or not.
        blobs_bytes: their size together.
    """

    client: str
    versions: int
    blobs: int
    blobs_bytes: int


@dataclass(frozen=True, slots=True)
class CollectReport:
    """What a collection removed and kept.

    Attributes:
        removed: blobs that no row needed.
        removed_bytes: their size together.
        leftovers: files of writes that were cut off.
        kept: blobs that remain, needed or too young to judge.
        retired: versions let go because their clients keep only so many.
    """

    removed: int
    removed_bytes: int
    leftovers: int
    kept: int
    retired: int = 0


@dataclass(frozen=True, slots=True)
class Damage:
    """One blob that is missing or not what its digest says, and the version that needs it."""

    client: str
    version: int
    digest: str
    problem: str


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check of the whole store read and found.

    Attributes:
        versions: how many were looked at.
        blobs: how many different blobs they need.
        damages: blobs missing or damaged.
        catalog_problems: what the database says about its own consistency; empty if whole.
    """

    versions: int
    blobs: int
    damages: tuple[Damage, ...]
    catalog_problems: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """True if nothing is missing or damaged."""
        return not self.damages and not self.catalog_problems


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a backup holds, or what a restoration brought back.

    Attributes:
        clients: how many.
        versions: how many they have together.
        blobs: how many different blobs they need, client by client.
        added: how many of these were not there yet and were copied.
        damages: blobs that the store itself has no good copy of; everything else is there.
    """

    clients: int
    versions: int
    blobs: int
    added: int
    damages: tuple[Damage, ...]
