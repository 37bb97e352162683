"""Backs up a store that is in use into a folder, and restores it: a catalog as of one moment and every blob it needs.

At every moment the folder holds a complete backup. New blobs are added first, then the new catalog; then
``backup.json``, which names the catalog, is replaced by a rename; last, blobs that only the previous backup needed are
deleted. The next run completes an interrupted one. All bytes written or reused are verified against their digests.
See docs/decisions/0053-own-backup.md.
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
from service.errors import InvalidRequest, StoreUnavailable, UnknownClient, UnknownVersion, VersionCorrupt
from service.store.blobs.local import LocalBlobs
from service.store.catalog.catalog import Catalog
from service.store.maintenance import Damage
from service.store.ports import Blobs

MANIFEST: Final = "backup.json"
BLOBS: Final = "blobs"

_FORMAT: Final = 1
_ATTEMPTS: Final = 8
_BLOBS_PER_PUT: Final = 16
_LOCK: Final = ".lock"

RequiredBlobs = Mapping[str, Mapping[str, int]]
"""Client -> digest -> the number of a version that needs it."""


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


@dataclass(frozen=True, slots=True)
class _Folder:
    """A backup's folder and the blobs in it."""

    path: Path
    blobs: LocalBlobs


@dataclass(frozen=True, slots=True)
class _Manifest:
    """The content of ``backup.json``: the catalog's file, its digest, and the blobs that were damaged in the store."""

    catalog: str
    catalog_sha256: str
    damaged: frozenset[tuple[str, str]]


def back_up(catalog: Catalog, blobs: Blobs, folder: Path) -> BackupReport:
    """Create a backup in `folder`, or update the one there.

    Args:
        catalog: the store's catalog.
        blobs: the store's blobs.
        folder: created if missing.

    Raises:
        VersionCorrupt: a row of the catalog is damaged; an existing backup is unchanged.
        StoreUnavailable: the folder or the store cannot be used, or another backup into the folder is running.
    """
    with _locked(folder) as target:
        for _ in range(_ATTEMPTS):
            with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=folder) as temporary:
                path = Path(temporary) / "catalog.sqlite3"
                catalog.export(path)
                required, versions = _required_blobs(catalog, path)
                added, lost = _copy_blobs(blobs, target.blobs, required)
                damages = [damage for damage in lost if _still_required(catalog, damage)]
                if len(damages) < len(lost):  # a version in the copy was deleted from the store in the meantime
                    continue
                report = BackupReport(
                    clients=len(required),
                    versions=versions,
                    blobs=sum(map(len, required.values())),
                    added=added,
                    damages=tuple(damages),
                )
                _complete(target, path, report)
                _delete_unneeded(target, required)
                return report
    raise StoreUnavailable(
        f"the backup into {folder} was given up after {_ATTEMPTS} attempts, because versions were deleted during each; "
        "try again"
    )


def restore(catalog: Catalog, blobs: Blobs, folder: Path) -> BackupReport:
    """Restore a backup into an empty store: blobs first, then all rows at once.

    An interrupted restore can be repeated; it keeps the blobs that it finds.

    Raises:
        InvalidRequest: the folder holds no backup, or the store has clients.
        VersionCorrupt: the backup is damaged; nothing was recorded.
        StoreUnavailable: the folder or the store cannot be used.
    """
    manifest = _read_manifest(folder)
    if catalog.names():
        raise InvalidRequest(
            f"the store holds {len(catalog.names())} clients, and a backup is restored into an empty store only; name "
            "another folder with --data (or another catalog), or delete the clients first"
        )
    with tempfile.TemporaryDirectory(prefix="anole-restore-") as temporary:
        path = Path(temporary) / "catalog.sqlite3"
        _copy_verified_catalog(folder, manifest, path)
        required, versions = _required_blobs(catalog, path)
        added, lost = _copy_blobs(LocalBlobs(folder / BLOBS), blobs, required)
        damages = tuple(damage for damage in lost if (damage.client, damage.digest) not in manifest.damaged)
        if damages:
            raise VersionCorrupt(
                f"{len(damages)} blobs of the backup in {folder} are missing or damaged, such as {damages[0].digest} "
                f"of {damages[0].client!r}; nothing was recorded; use another backup"
            )
        catalog.load(path)
    return BackupReport(len(required), versions, sum(map(len, required.values())), added, tuple(lost))


def _required_blobs(catalog: Catalog, path: Path) -> tuple[RequiredBlobs, int]:
    """Return the blobs that the catalog in a file needs, and its number of versions. Raises VersionCorrupt."""
    with catalog.copy_in(path) as copy:
        problems = copy.problems()
        if problems:
            raise VersionCorrupt(
                f"the catalog is damaged: {problems[0]}; run `anole store check`, then restore an earlier backup"
            )
        required: dict[str, dict[str, int]] = {}
        versions = 0
        for client in copy.names():
            required[client] = {}
            for version in copy.versions(client):
                versions += 1
                required[client].update(dict.fromkeys(sorted(version.draft.required_blobs), version.number))
        return required, versions


def _copy_blobs(source: Blobs, target: Blobs, required: RequiredBlobs) -> tuple[int, list[Damage]]:
    """Copy the blobs that `target` lacks or has damaged; return their number, and those damaged in `source`."""
    added = 0
    lost: list[Damage] = []
    for client, digests in required.items():
        waiting: list[bytes] = []
        for digest, version in digests.items():
            if _has_intact(target, client, digest):
                continue
            try:
                waiting.append(source.get(client, digest))
            except VersionCorrupt as error:
                lost.append(Damage(client, version, digest, str(error)))
            if len(waiting) == _BLOBS_PER_PUT:
                added += len(target.put(client, waiting))
                waiting.clear()
        added += len(target.put(client, waiting)) if waiting else 0
    return added, lost


def _has_intact(blobs: Blobs, client: str, digest: str) -> bool:
    with suppress(VersionCorrupt):
        blobs.get(client, digest)
        return True
    return False


def _still_required(catalog: Catalog, damage: Damage) -> bool:
    with suppress(UnknownClient, UnknownVersion):
        return damage.digest in catalog.version(damage.client, damage.version).draft.required_blobs
    return False


@contextmanager
def _locked(folder: Path) -> Iterator[_Folder]:
    """Open the backup's folder, created if missing, and exclude other backups into it."""
    try:
        (folder / BLOBS).mkdir(mode=0o700, parents=True, exist_ok=True)
        with (folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):  # of runs that were killed
                if leftover.is_dir():
                    shutil.rmtree(leftover)
                else:
                    leftover.unlink()
            yield _Folder(folder, LocalBlobs(folder / BLOBS))
    except BlockingIOError as error:
        raise StoreUnavailable(
            f"another backup into {folder} is running; wait for it to end, or name another folder"
        ) from error
    except OSError as error:
        raise StoreUnavailable(f"the backup cannot be written to {folder}: {error}") from error


def _complete(target: _Folder, path: Path, report: BackupReport) -> None:
    """Make the new catalog the backup's, durably, and delete the previous one."""
    digest = _file_digest(path)
    name = f"catalog-{digest[:16]}.sqlite3"
    sync(path)
    path.replace(target.path / name)
    sync(target.path)
    damages = [{"client": damage.client, "digest": damage.digest} for damage in report.damages]
    manifest = {"format": _FORMAT, "catalog": name, "catalog_sha256": digest, "damages": damages}
    write_atomically(target.path / MANIFEST, f"{json.dumps(manifest, indent=2)}\n".encode())
    for older in target.path.glob("catalog-*.sqlite3"):
        if older.name != name:
            older.unlink()


def _delete_unneeded(target: _Folder, required: RequiredBlobs) -> None:
    """Delete the blobs that the backup no longer needs, so that data erased from the store leaves its backup too."""
    for space in target.blobs.spaces():
        kept = required.get(space, {})
        target.blobs.delete(space, [entry.digest for entry in target.blobs.entries(space) if entry.digest not in kept])
        target.blobs.sweep(space, older_than_s=0.0)


def _read_manifest(folder: Path) -> _Manifest:
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise InvalidRequest(
                f"the backup in {folder} has format {content['format']!r}; this release reads format {_FORMAT}"
            )
        damaged = frozenset((damage["client"], damage["digest"]) for damage in content["damages"])
        return _Manifest(Path(content["catalog"]).name, content["catalog_sha256"], damaged)
    except FileNotFoundError as error:
        raise InvalidRequest(f"there is no backup in {folder}: it has no {MANIFEST}; name another folder") from error
    except InvalidRequest:
        raise
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise VersionCorrupt(f"{folder / MANIFEST} cannot be read: {error!r}; use another backup") from error


def _copy_verified_catalog(folder: Path, manifest: _Manifest, path: Path) -> None:
    """Copy the backup's catalog to `path`. Raises VersionCorrupt if it does not match its digest."""
    try:
        shutil.copyfile(folder / manifest.catalog, path)
    except OSError as error:
        raise VersionCorrupt(f"the catalog in {folder} cannot be read: {error}; use another backup") from error
    if _file_digest(path) != manifest.catalog_sha256:
        raise VersionCorrupt(
            f"the catalog in {folder} is damaged: it does not match its digest in {MANIFEST}; use another backup"
        )


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
