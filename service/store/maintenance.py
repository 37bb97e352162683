"""Maintenance of a store: deletes versions and clients, collects unneeded blobs, and checks the needed ones.

Rows are deleted first, durably; then the blobs that no row needs, while no publish of that client can commit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from service.domain.version import Version
from service.errors import StoreFull, StoreUnavailable, UnknownClient, UnknownVersion, VersionCorrupt, VersionInUse
from service.store.catalog.catalog import Catalog
from service.store.ports import Blobs

GRACE_S: Final = 3600.0
"""How long an unneeded blob is kept, because its version may be about to be published."""


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


def delete_version(catalog: Catalog, blobs: Blobs, client: str, number: int) -> None:
    """Delete a version and, at once, the blobs that no other version of the client needs.

    An adaptation that is about to publish with one of them fails with StoreUnavailable and can be repeated.

    Raises:
        UnknownClient, UnknownVersion, VersionInUse.
    """
    stored = catalog.delete_version(client, number).draft.required_blobs
    with catalog.holding(client, stored) as needed:
        blobs.delete(client, stored - needed)


def discard(catalog: Catalog, blobs: Blobs, client: str, digests: Collection[str]) -> None:
    """Delete those of the blobs that no version needs: they were stored for a version that was not recorded."""
    with catalog.holding(client, digests) as needed:
        blobs.delete(client, frozenset(digests) - needed)
        if next(blobs.entries(client), None) is None:  # leave no folder with the name of a deleted client behind
            blobs.sweep(client, older_than_s=0.0)


def delete_client(catalog: Catalog, blobs: Blobs, client: str) -> Erasure:
    """Delete a client's rows, then at once all its blobs, published or not.

    A client without rows that still has blobs, left by a process that was killed, is deleted too. On a full disk the
    blobs go first, because deleting rows takes room for the journal; if that is interrupted, repeat the deletion.

    Raises:
        UnknownClient: there is nothing of that client.
    """
    freed = CollectReport(0, 0, 0, 0)
    try:
        versions = catalog.delete_client(client)
    except UnknownClient:
        if next(blobs.entries(client), None) is None:
            raise
        versions = 0
    except StoreFull:
        freed = _delete_blobs(blobs, client)
        versions = catalog.delete_client(client)
    removed = collect_space(catalog, blobs, client, grace_s=0.0)
    return Erasure(client, versions, freed.removed + removed.removed, freed.removed_bytes + removed.removed_bytes)


def _delete_blobs(blobs: Blobs, client: str) -> CollectReport:
    """Delete every blob of a client, whatever its rows need."""
    entries = list(blobs.entries(client))
    blobs.delete(client, [entry.digest for entry in entries])
    return CollectReport(len(entries), sum(entry.size_bytes for entry in entries), 0, 0)


def collect(catalog: Catalog, blobs: Blobs, *, grace_s: float) -> CollectReport:
    """Delete the versions beyond each client's `keep_last` setting, then the blobs that no row needs.

    Blobs of the deleted versions are deleted at once, others once they are older than `grace_s` seconds.

    Raises:
        VersionCorrupt: a row is damaged, so the needed blobs are not known; nothing was removed.
    """
    problems = catalog.problems()
    if problems:
        raise VersionCorrupt(f"nothing was removed, because the catalog is damaged: {problems[0]}; restore a backup")
    retired = sum(_delete_old_versions(catalog, blobs, client) for client in catalog.names())
    reports = [collect_space(catalog, blobs, space, grace_s=grace_s) for space in blobs.spaces()]
    return CollectReport(
        removed=sum(report.removed for report in reports),
        removed_bytes=sum(report.removed_bytes for report in reports),
        leftovers=sum(report.leftovers for report in reports),
        kept=sum(report.kept for report in reports),
        retired=retired,
    )


def _delete_old_versions(catalog: Catalog, blobs: Blobs, client: str) -> int:
    """Delete the versions before the client's last `keep_last`, except those that an alias points at; count them."""
    deleted = 0
    with suppress(UnknownClient):  # deleted since it was listed
        keep_last = catalog.settings(client).keep_last
        old = () if keep_last is None else catalog.version_numbers(client)[:-keep_last]
        for number in old:
            with suppress(VersionInUse, UnknownVersion):
                delete_version(catalog, blobs, client, number)
                deleted += 1
    return deleted


def collect_space(catalog: Catalog, blobs: Blobs, space: str, *, grace_s: float) -> CollectReport:
    """Delete a client's unneeded blobs and the leftovers of interrupted writes that are older than `grace_s`."""
    listed = frozenset(entry.digest for entry in blobs.entries(space))
    with catalog.holding(space, listed) as needed:
        entries = list(blobs.entries(space))
        removed = [each for each in entries if each.digest in listed - needed and each.age_s >= grace_s]
        blobs.delete(space, [entry.digest for entry in removed])
        leftovers = blobs.sweep(space, older_than_s=grace_s)
    size_bytes = sum(entry.size_bytes for entry in removed)
    return CollectReport(len(removed), size_bytes, leftovers, len(entries) - len(removed))


def check(catalog: Catalog, blobs: Blobs) -> CheckReport:
    """Verify every row, and every blob that a version needs.

    Blobs of versions whose rows are damaged are not checked; the rows are reported.
    """
    versions = 0
    checked: dict[tuple[str, str], str | None] = {}
    damages: list[Damage] = []
    for client in catalog.names():
        for version in _readable_versions(catalog, client):
            versions += 1
            found = _damaged_blobs(blobs, version, checked)
            damages.extend(found if found and _unchanged(catalog, version) else [])
    return CheckReport(versions, len(checked), tuple(damages), catalog.problems())


def _readable_versions(catalog: Catalog, client: str) -> Iterator[Version]:
    """Yield the client's versions whose rows are not damaged; none if the client was deleted since it was listed."""
    with suppress(UnknownClient, VersionCorrupt):
        for number in catalog.version_numbers(client):  # one by one, so that no read is long
            with suppress(UnknownVersion, VersionCorrupt):
                yield catalog.version(client, number)


def _damaged_blobs(blobs: Blobs, version: Version, checked: dict[tuple[str, str], str | None]) -> list[Damage]:
    """Return the damage in the version's blobs. `checked` remembers the result of each blob."""
    client = version.draft.client
    damages = []
    for digest in sorted(version.draft.required_blobs):
        if (client, digest) not in checked:
            checked[client, digest] = _problem(blobs, client, digest)
        problem = checked[client, digest]
        if problem is not None:
            damages.append(Damage(client, version.number, digest, problem))
    return damages


def _problem(blobs: Blobs, client: str, digest: str) -> str | None:
    try:
        blobs.get(client, digest)
    except (VersionCorrupt, StoreUnavailable) as error:
        return str(error)
    return None


def _unchanged(catalog: Catalog, version: Version) -> bool:
    """Whether the version still needs the same blobs; if not, they were deleted rightly during the check."""
    try:
        now = catalog.version(version.draft.client, version.number)
    except (UnknownClient, UnknownVersion):
        return False
    return now.created_at == version.created_at and now.draft.samples_kept == version.draft.samples_kept
