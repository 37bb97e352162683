"""Backs up a store that is in use into a folder, and restores it: a catalog as of one moment and every blob it needs.

At every moment the folder holds a complete backup. New blobs are added first, then the new catalog; then
``backup.json``, which names the catalog, is replaced by a rename; last, catalogs and blobs that no backup in the folder
needs any more are deleted. The next run completes an interrupted one. All bytes written or reused are verified against
their digests. See docs/decisions/0053-own-backup.md.

The backup of one store is not replaced by that of another, or of an emptied one: a store whose clients are all missing
from it is rejected. A folder keeps several backups on request, and always the newest one without damage.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from models.atomic_files import TEMPORARY_PREFIX, create_folder, sync, write_atomically
from service.errors import InvalidRequest, StoreUnavailable, UnknownClient, UnknownVersion, VersionCorrupt
from service.store.blobs.local import LocalBlobs
from service.store.catalog.catalog import Catalog
from service.store.maintenance import Damage
from service.store.ports import Blobs, utc_now

MANIFEST: Final = "backup.json"
BLOBS: Final = "blobs"

_STORE_CATALOG: Final = "catalog.sqlite3"
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
        generations: number of backups in the folder.
    """

    clients: int
    versions: int
    blobs: int
    added: int
    damages: tuple[Damage, ...]
    generations: int


@dataclass(frozen=True, slots=True)
class _Folder:
    """A backup's folder and the blobs in it."""

    path: Path
    blobs: LocalBlobs


@dataclass(frozen=True, slots=True)
class _Generation:
    """One backup in the folder: the catalog's file, its digest, the blobs that were damaged in the store, the time."""

    catalog: str
    catalog_sha256: str
    damaged: frozenset[tuple[str, str]]
    made_at: datetime | None

    def to_json(self) -> dict[str, Any]:
        """Return it as ``backup.json`` has it."""
        damages = [{"client": client, "digest": digest} for client, digest in sorted(self.damaged)]
        made_at = None if self.made_at is None else self.made_at.isoformat()
        names = {"catalog": self.catalog, "catalog_sha256": self.catalog_sha256}
        return {**names, "damages": damages, "made_at": made_at}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> _Generation:
        """Read what `to_json` returned; earlier releases wrote no time."""
        damaged = frozenset((damage["client"], damage["digest"]) for damage in data["damages"])
        made_at = data.get("made_at")
        at = None if made_at is None else datetime.fromisoformat(made_at)
        return cls(Path(data["catalog"]).name, data["catalog_sha256"], damaged, at)


def back_up(catalog: Catalog, blobs: Blobs, folder: Path, *, keep: int = 1, replace: bool = False) -> BackupReport:
    """Create a backup in `folder`, or add one to those there and delete the oldest.

    Args:
        catalog: the store's catalog.
        blobs: the store's blobs.
        folder: created if missing.
        keep: number of backups that the folder keeps; the newest one without damages is kept besides.
        replace: replace the backup even if it has clients and the store has none of them.

    Raises:
        InvalidRequest: the backup in the folder is of another store, or the store was emptied; or the folder is that
            of a store.
        VersionCorrupt: a row of the catalog is damaged; an existing backup is unchanged.
        StoreUnavailable: the folder or the store cannot be used, or another backup into the folder is running.
    """
    if (folder / _STORE_CATALOG).exists():
        raise InvalidRequest(f"{folder} is the folder of a store; name another folder for the backup")
    with _locked(folder) as target:
        earlier = () if replace or not (folder / MANIFEST).exists() else _read_generations(folder)
        for _ in range(_ATTEMPTS):
            with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=folder) as temporary:
                path = Path(temporary) / "catalog.sqlite3"
                catalog.export(path)
                if earlier:
                    _reject_other_store(catalog, path, folder, earlier[0])
                required, versions = _required_blobs(catalog, path)
                added, lost = _copy_blobs(blobs, target.blobs, required)
                damages = [damage for damage in lost if _still_required(catalog, damage)]
                if len(damages) < len(lost):  # a version in the copy was deleted from the store in the meantime
                    continue
                new = _add_catalog(target, path, damages)
                kept = _kept_generations(catalog, folder, (new, *earlier), keep)
                _complete(target, (new, *kept))
                _delete_unneeded(target, [required, *kept.values()])
                return BackupReport(
                    clients=len(required),
                    versions=versions,
                    blobs=sum(map(len, required.values())),
                    added=added,
                    damages=tuple(damages),
                    generations=1 + len(kept),
                )
    raise StoreUnavailable(
        f"the backup into {folder} was given up after {_ATTEMPTS} attempts, because versions were deleted during each; "
        "try again"
    )


def require_backup(folder: Path, generation: int = 0) -> None:
    """Raises InvalidRequest if there is no such backup in `folder`, and VersionCorrupt if its catalog is damaged."""
    with _verified_catalog(folder, _find_generation(folder, generation)):
        return


def restore(catalog: Catalog, blobs: Blobs, folder: Path, *, generation: int = 0) -> BackupReport:
    """Restore a backup into an empty store: blobs first, then all rows at once.

    An interrupted restore can be repeated; it keeps the blobs that it finds.

    Args:
        catalog: the store's catalog.
        blobs: the store's blobs.
        folder: of the backup.
        generation: 0 is the newest backup in the folder, 1 the one before, and so on.

    Raises:
        InvalidRequest: the folder holds no such backup, or the store has clients.
        VersionCorrupt: the backup is damaged; nothing was recorded.
        StoreUnavailable: the folder or the store cannot be used.
    """
    chosen = _find_generation(folder, generation)
    if catalog.names():
        raise InvalidRequest(
            f"the store holds {len(catalog.names())} clients, and a backup is restored into an empty store only; name "
            "another folder with --data (or another catalog), or delete the clients first"
        )
    with _verified_catalog(folder, chosen) as path:
        required, versions = _required_blobs(catalog, path)
        added, lost = _copy_blobs(LocalBlobs(folder / BLOBS), blobs, required)
        damages = tuple(damage for damage in lost if (damage.client, damage.digest) not in chosen.damaged)
        if damages:
            raise VersionCorrupt(
                f"{len(damages)} blobs of the backup in {folder} are missing or damaged, such as {damages[0].digest} "
                f"of {damages[0].client!r}; nothing was recorded; use another backup"
            )
        catalog.load(path)
    generations = len(_read_generations(folder))
    return BackupReport(len(required), versions, sum(map(len, required.values())), added, tuple(lost), generations)


def _reject_other_store(catalog: Catalog, path: Path, folder: Path, newest: _Generation) -> None:
    """Compare the store's catalog, exported to `path`, with the newest backup. Raises InvalidRequest."""
    try:
        with _verified_catalog(folder, newest) as previous, catalog.copy_in(previous) as before:
            clients = before.identities()
    except VersionCorrupt as error:
        raise InvalidRequest(
            f"the backup in {folder} is damaged, so it is not known whether it is of this store ({error}); name "
            "another folder, or replace the backup with --replace"
        ) from error
    with catalog.copy_in(path) as now:
        if clients and not clients & now.identities():
            raise InvalidRequest(
                f"the backup in {folder} has {len(clients)} clients, and this store has none of them: it is another "
                "store, or it was emptied; check --data, name another folder, or replace the backup with --replace"
            )


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
            for number in copy.version_numbers(client):
                version = copy.version(client, number)
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
        create_folder(folder / BLOBS)
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


def _add_catalog(target: _Folder, path: Path, damages: Sequence[Damage]) -> _Generation:
    """Move the new catalog into the backup's folder, durably."""
    digest = _file_digest(path)
    name = f"catalog-{digest[:16]}.sqlite3"
    sync(path)
    path.replace(target.path / name)
    sync(target.path)
    return _Generation(name, digest, frozenset((damage.client, damage.digest) for damage in damages), utc_now())


def _kept_generations(
    catalog: Catalog, folder: Path, generations: Sequence[_Generation], keep: int
) -> dict[_Generation, RequiredBlobs]:
    """Return the earlier backups that stay in the folder, newest first, with the blobs that each needs.

    Args:
        catalog: the store's catalog.
        folder: of the backup.
        generations: newest first; the first is the new one.
        keep: number of backups to keep, the new one included.
    """
    new, *earlier = generations
    different = [each for each in earlier if each.catalog != new.catalog]
    whole = next((each for each in (new, *different) if not each.damaged), new)
    kept: dict[_Generation, RequiredBlobs] = {}
    for position, generation in enumerate(different, start=1):
        if position < keep or generation == whole:
            with suppress(VersionCorrupt), _verified_catalog(folder, generation) as path:  # a damaged one is useless
                kept[generation] = _required_blobs(catalog, path)[0]
    return kept


def _complete(target: _Folder, generations: Sequence[_Generation]) -> None:
    """Record which backups the folder holds, newest first, and delete the catalogs of others."""
    newest, *earlier = (generation.to_json() for generation in generations)
    manifest = {"format": _FORMAT, **newest, "earlier": earlier}
    write_atomically(target.path / MANIFEST, f"{json.dumps(manifest, indent=2)}\n".encode())
    names = {generation.catalog for generation in generations}
    for path in target.path.glob("catalog-*.sqlite3"):
        if path.name not in names:
            path.unlink()


def _delete_unneeded(target: _Folder, needed: Sequence[RequiredBlobs]) -> None:
    """Delete the blobs that no backup needs, so that data erased from the store leaves its backup too."""
    for space in target.blobs.spaces():
        kept = {digest for required in needed for digest in required.get(space, ())}
        target.blobs.delete(space, [entry.digest for entry in target.blobs.entries(space) if entry.digest not in kept])
        target.blobs.sweep(space, older_than_s=0.0)


def _find_generation(folder: Path, generation: int) -> _Generation:
    """Return a backup in the folder; 0 is the newest. Raises InvalidRequest, VersionCorrupt."""
    generations = _read_generations(folder)
    if not 0 <= generation < len(generations):
        raise InvalidRequest(
            f"there is no generation {generation} in {folder}; backups there: {len(generations)}, from 0, the newest, "
            f"to {len(generations) - 1}, the oldest"
        )
    return generations[generation]


def _read_generations(folder: Path) -> tuple[_Generation, ...]:
    """Return the backups in the folder, newest first; at least one. Raises InvalidRequest, VersionCorrupt."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise InvalidRequest(
                f"the backup in {folder} has format {content['format']!r}; this release reads format {_FORMAT}"
            )
        return tuple(map(_Generation.from_json, (content, *content.get("earlier", ()))))
    except FileNotFoundError as error:
        raise InvalidRequest(f"there is no backup in {folder}: it has no {MANIFEST}; name another folder") from error
    except InvalidRequest:
        raise
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise VersionCorrupt(
            f"{folder / MANIFEST} cannot be read: {error!r}; use another backup, or replace it "
            "with `anole store backup --replace`"
        ) from error


@contextmanager
def _verified_catalog(folder: Path, generation: _Generation) -> Iterator[Path]:
    """Copy a backup's catalog, since opening it may upgrade it. Raises VersionCorrupt if it is damaged."""
    with tempfile.TemporaryDirectory(prefix="anole-backup-") as temporary:
        path = Path(temporary) / "catalog.sqlite3"
        try:
            shutil.copyfile(folder / generation.catalog, path)
        except OSError as error:
            raise VersionCorrupt(f"the catalog in {folder} cannot be read: {error}; use another backup") from error
        if _file_digest(path) != generation.catalog_sha256:
            raise VersionCorrupt(
                f"the catalog in {folder} is damaged: it does not match its digest in {MANIFEST}; use another backup"
            )
        yield path


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
