"""Looking after a store: letting go of old versions, removing what no row needs, checking what rows need.

Removal goes rows first, durable, then what no row needs, while no publish of that client can commit. Knows no SQL, no
file system and no weights format.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

from service.domain.maintenance import CheckReport, CollectReport, Damage, Erasure
from service.domain.version import Version
from service.errors import StoreUnavailable, UnknownClient, UnknownVersion, VersionCorrupt, VersionInUse
from service.store.needs import needed_by
from service.store.ports import Blobs, Catalog

GRACE_S: Final = 3600.0
"""How long an unneeded blob is kept: its publish may be between blob and row."""


def delete_version(catalog: Catalog, blobs: Blobs, client: str, number: int) -> None:
    """Delete a version and, at once, what no other version of the client needs.

    Raises:
        UnknownClient, UnknownVersion, VersionInUse.
    """
    version = catalog.delete_version(client, number)
    with catalog.holding(client) as needed:
        blobs.delete(client, needed_by(version.draft) - needed)


def erase(catalog: Catalog, blobs: Blobs, client: str) -> Erasure:
    """Delete a client: its rows, then at once everything stored for it, published or not. Raises UnknownClient."""
    versions = catalog.delete_client(client)
    removed = collect_space(catalog, blobs, client, grace_s=0.0)
    return Erasure(client, versions, removed.removed, removed.removed_bytes)


def collect(catalog: Catalog, blobs: Blobs, *, grace_s: float) -> CollectReport:
    """Let go of the versions that their clients do not want kept, then remove what no row needs.

    What no row needs is removed once it is older than `grace_s` seconds; what only a retired version needed, at once.

    Raises:
        VersionCorrupt: a row is damaged, so that it is not known what is needed; nothing was removed.
    """
    problems = catalog.problems()
    if problems:
        raise VersionCorrupt(f"nothing was removed, because the catalog is damaged: {problems[0]}; restore a backup")
    retired = sum(_retire(catalog, blobs, client) for client in catalog.names())
    reports = [collect_space(catalog, blobs, space, grace_s=grace_s) for space in blobs.spaces()]
    return CollectReport(
        removed=sum(report.removed for report in reports),
        removed_bytes=sum(report.removed_bytes for report in reports),
        leftovers=sum(report.leftovers for report in reports),
        kept=sum(report.kept for report in reports),
        retired=retired,
    )


def _retire(catalog: Catalog, blobs: Blobs, client: str) -> int:
    """Delete the versions before the client's last so many, except where an alias points; return how many went."""
    retired = 0
    with suppress(UnknownClient):  # deleted since it was listed
        keep_last = catalog.settings(client).keep_last
        old = () if keep_last is None else catalog.versions(client)[:-keep_last]
        for version in old:
            with suppress(VersionInUse, UnknownVersion):
                delete_version(catalog, blobs, client, version.number)
                retired += 1
    return retired


def collect_space(catalog: Catalog, blobs: Blobs, space: str, *, grace_s: float) -> CollectReport:
    """Remove the blobs of one client that no row needs and what cut-off writes left, if older than `grace_s`."""
    with catalog.holding(space) as needed:
        entries = list(blobs.entries(space))
        removed = [entry for entry in entries if entry.digest not in needed and entry.age_s >= grace_s]
        blobs.delete(space, [entry.digest for entry in removed])
        leftovers = blobs.sweep(space, older_than_s=grace_s)
    size_bytes = sum(entry.size_bytes for entry in removed)
    return CollectReport(len(removed), size_bytes, leftovers, len(entries) - len(removed))


def check(catalog: Catalog, blobs: Blobs) -> CheckReport:
    """Read and verify every blob that a version needs, and ask the catalog for its own problems.

    Versions whose rows are damaged are among the catalog's problems; their blobs are not looked for.
    """
    versions = 0
    seen: dict[tuple[str, str], str | None] = {}
    damages: list[Damage] = []
    for client in catalog.names():
        for version in _versions_now(catalog, client):
            versions += 1
            found = _damages(blobs, version, seen)
            damages.extend(found if found and _still_there(catalog, version) else [])
    return CheckReport(versions, len(seen), tuple(damages), catalog.problems())


def _versions_now(catalog: Catalog, client: str) -> Iterable[Version]:
    """The client's versions that can be read; none if it was deleted since it was listed."""
    try:
        return catalog.versions(client)
    except UnknownClient:
        return ()
    except VersionCorrupt:  # one of them is damaged: those that are not
        return tuple(_sound(catalog, client))


def _sound(catalog: Catalog, client: str) -> Iterator[Version]:
    with suppress(UnknownClient, VersionCorrupt):
        for number in range(1, catalog.client(client).latest + 1):
            with suppress(UnknownVersion, VersionCorrupt):
                yield catalog.version(client, number)


def _damages(blobs: Blobs, version: Version, seen: dict[tuple[str, str], str | None]) -> list[Damage]:
    """What is wrong with the version's blobs; `seen` remembers what was read before."""
    client = version.draft.client
    found = []
    for digest in sorted(needed_by(version.draft)):
        if (client, digest) not in seen:
            seen[client, digest] = _problem(blobs, client, digest)
        problem = seen[client, digest]
        if problem is not None:
            found.append(Damage(client, version.number, digest, problem))
    return found


def _problem(blobs: Blobs, client: str, digest: str) -> str | None:
    try:
        blobs.get(client, digest)
    except (VersionCorrupt, StoreUnavailable) as error:
        return str(error)
    return None


def _still_there(catalog: Catalog, version: Version) -> bool:
    try:
        now = catalog.version(version.draft.client, version.number)
    except (UnknownClient, UnknownVersion):
        return False
    return now.created_at == version.created_at and now.draft.samples_kept == version.draft.samples_kept
