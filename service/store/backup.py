"""A backup: one folder with a catalog as of one moment and every blob that it needs, taken while the store is used.

The folder is changed in an order that leaves it a whole backup at every moment: blobs are added, the new catalog is
added, then ``backup.json``, which names it, is replaced by a rename; what only the backup before needed goes last. A
run that was cut off is taken up by the next. Every byte that is written or reused is held to its digest.

Knows no SQL and not where the store is.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from models.atomic_files import TEMPORARY_PREFIX, sync, write_atomically
from service.domain.maintenance import BackupReport, Damage
from service.errors import InvalidRequest, StoreUnavailable, UnknownClient, UnknownVersion, VersionCorrupt
from service.store.blobs.local import LocalBlobs
from service.store.needs import needed_by
from service.store.ports import Blobs, Catalog

MANIFEST: Final = "backup.json"
BLOBS: Final = "blobs"

_FORMAT: Final = 1
_ATTEMPTS: Final = 8
_BLOBS_AT_ONCE: Final = 16
_LOCK: Final = ".lock"

Needs = Mapping[str, Mapping[str, int]]
"""Client -> digest -> the version that needs it."""


@dataclass(frozen=True, slots=True)
class _Folder:
    """A backup's folder and what is in it."""

    path: Path
    blobs: LocalBlobs


@dataclass(frozen=True, slots=True)
class _Manifest:
    """What ``backup.json`` says: the catalog's file, its digest, and the blobs that the store had no good copy of."""

    catalog: str
    catalog_sha256: str
    damaged: frozenset[tuple[str, str]]


def back_up(catalog: Catalog, blobs: Blobs, folder: Path) -> BackupReport:
    """Bring the backup in `folder` up to now, or make one; see the module.

    Args:
        catalog: of the store.
        blobs: of the store.
        folder: made if it is not there.

    Raises:
        VersionCorrupt: a row of the catalog is damaged; the backup before stays as it was.
        StoreUnavailable: the folder or the store cannot be used, or another backup into it is running.
    """
    with _taken(folder) as held:
        for _ in range(_ATTEMPTS):
            with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=folder) as unfinished:
                path = Path(unfinished) / "catalog.sqlite3"
                catalog.export(path)
                needs, versions = _needs(catalog, path)
                added, lost = _fetch(blobs, held.blobs, needs)
                damages = [damage for damage in lost if _still_needed(catalog, damage)]
                if len(damages) < len(lost):  # a version was deleted since: its blobs went, its rows are in the copy
                    continue
                report = BackupReport(
                    clients=len(needs),
                    versions=versions,
                    blobs=sum(map(len, needs.values())),
                    added=added,
                    damages=tuple(damages),
                )
                _conclude(held, path, report)
                _prune(held, needs)
                return report
    raise StoreUnavailable(f"versions were deleted faster than the backup into {folder} could be made; try again")


def restore(catalog: Catalog, blobs: Blobs, folder: Path) -> BackupReport:
    """Fill an empty store with what a backup holds: blobs first, then all rows at once.

    A restoration that was cut off is repeated; it finds what is there already.

    Raises:
        InvalidRequest: the folder holds no backup, or the store has clients.
        VersionCorrupt: the backup is damaged; nothing was recorded.
        StoreUnavailable: the folder or the store cannot be used.
    """
    said = _manifest(folder)
    if catalog.names():
        raise InvalidRequest(
            f"the store holds {len(catalog.names())} clients and a backup is restored into an empty one; name another "
            "folder with --data (or another catalog), or delete them first"
        )
    with tempfile.TemporaryDirectory(prefix="anole-restore-") as place:
        path = Path(place) / "catalog.sqlite3"
        _verified_catalog(folder, said, path)
        needs, versions = _needs(catalog, path)
        added, lost = _fetch(LocalBlobs(folder / BLOBS), blobs, needs)
        damages = tuple(damage for damage in lost if (damage.client, damage.digest) not in said.damaged)
        if damages:
            raise VersionCorrupt(
                f"{len(damages)} blobs of the backup in {folder} are missing or damaged, such as {damages[0].digest} "
                f"of {damages[0].client!r}; nothing was recorded; use another backup"
            )
        catalog.load(path)
    return BackupReport(len(needs), versions, sum(map(len, needs.values())), added, tuple(lost))


def _needs(catalog: Catalog, path: Path) -> tuple[Needs, int]:
    """Which blobs the catalog in a file needs, and how many versions it has. Raises VersionCorrupt."""
    with catalog.copy_in(path) as copy:
        problems = copy.problems()
        if problems:
            raise VersionCorrupt(f"the catalog is damaged: {problems[0]}; run `anole store check`, restore a backup")
        needs: dict[str, dict[str, int]] = {}
        versions = 0
        for client in copy.names():
            needs[client] = {}
            for version in copy.versions(client):
                versions += 1
                needs[client].update(dict.fromkeys(sorted(needed_by(version.draft)), version.number))
        return needs, versions


def _fetch(source: Blobs, target: Blobs, needs: Needs) -> tuple[int, list[Damage]]:
    """Bring into `target` what is not there, or not whole; return how many came, and what `source` did not have."""
    added = 0
    lost: list[Damage] = []
    for client, digests in needs.items():
        waiting: list[bytes] = []
        for digest, version in digests.items():
            if _has(target, client, digest):
                continue
            try:
                waiting.append(source.get(client, digest))
            except VersionCorrupt as error:
                lost.append(Damage(client, version, digest, str(error)))
            if len(waiting) == _BLOBS_AT_ONCE:
                added += len(target.put(client, waiting))
                waiting.clear()
        added += len(target.put(client, waiting)) if waiting else 0
    return added, lost


def _has(blobs: Blobs, client: str, digest: str) -> bool:
    with suppress(VersionCorrupt):
        blobs.get(client, digest)
        return True
    return False


def _still_needed(catalog: Catalog, damage: Damage) -> bool:
    with suppress(UnknownClient, UnknownVersion):
        return damage.digest in needed_by(catalog.version(damage.client, damage.version).draft)
    return False


@contextmanager
def _taken(folder: Path) -> Iterator[_Folder]:
    """The backup's folder, made where it is not there, with no other backup at it."""
    try:
        (folder / BLOBS).mkdir(mode=0o700, parents=True, exist_ok=True)
        with (folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in folder.glob(f"{TEMPORARY_PREFIX}*"):  # of runs that were killed
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield _Folder(folder, LocalBlobs(folder / BLOBS))
    except BlockingIOError as error:
        raise StoreUnavailable(
            f"another backup into {folder} is running; wait for it, or name another folder"
        ) from error
    except OSError as error:
        raise StoreUnavailable(f"the backup cannot be kept in {folder}: {error}") from error


def _conclude(held: _Folder, path: Path, report: BackupReport) -> None:
    """Make the new catalog the backup's, durably; remove the one before."""
    digest = _digest(path)
    name = f"catalog-{digest[:16]}.sqlite3"
    path.replace(held.path / name)
    sync(held.path / name)
    sync(held.path)
    damages = [{"client": damage.client, "digest": damage.digest} for damage in report.damages]
    said = {"format": _FORMAT, "catalog": name, "catalog_sha256": digest, "damages": damages}
    write_atomically(held.path / MANIFEST, f"{json.dumps(said, indent=2)}\n".encode())
    for older in held.path.glob("catalog-*.sqlite3"):
        if older.name != name:
            older.unlink()


def _prune(held: _Folder, needs: Needs) -> None:
    """Remove what the backup does not need any more: what was erased from the store leaves its backup too."""
    for space in held.blobs.spaces():
        kept = needs.get(space, {})
        held.blobs.delete(space, [entry.digest for entry in held.blobs.entries(space) if entry.digest not in kept])
        held.blobs.sweep(space, older_than_s=0.0)


def _manifest(folder: Path) -> _Manifest:
    try:
        said = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if said["format"] != _FORMAT:
            raise InvalidRequest(f"the backup in {folder} has format {said['format']!r}; this release reads {_FORMAT}")
        known = frozenset((damage["client"], damage["digest"]) for damage in said["damages"])
        return _Manifest(Path(said["catalog"]).name, said["catalog_sha256"], known)
    except FileNotFoundError as error:
        raise InvalidRequest(f"there is no backup in {folder}: it has no {MANIFEST}; name a folder that has") from error
    except InvalidRequest:
        raise
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise VersionCorrupt(f"{folder / MANIFEST} cannot be read: {error!r}; use another backup") from error


def _verified_catalog(folder: Path, said: _Manifest, path: Path) -> None:
    """Copy the backup's catalog to `path`. Raises VersionCorrupt."""
    try:
        shutil.copyfile(folder / said.catalog, path)
    except OSError as error:
        raise VersionCorrupt(f"the catalog in {folder} cannot be read: {error}; use another backup") from error
    if _digest(path) != said.catalog_sha256:
        raise VersionCorrupt(f"the catalog in {folder} is damaged: it is not what {MANIFEST} names; use another backup")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
