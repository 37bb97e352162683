"""Writes a repository of The Update Framework: a folder that any web server or content delivery network delivers.

Files are written in an order that readers survive: targets, then the metadata that name them, and the timestamp last.
Each file is written atomically and durably. Files of earlier states stay, because slow devices still read them.

In force is what the timestamp leads to. A change that was interrupted before has no effect, and the next command signs
over it. A new root is in force at once, so an interrupted rotation of keys is completed by the next command instead.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from models.atomic_files import write_atomically
from service.errors import InvalidRequest
from service.fleet.signing import ROLES, KeyFolder, Threshold

METADATA: Final = "metadata"
TARGETS: Final = "targets"
Kind = TypeVar("Kind", Root, Targets, Snapshot, Timestamp)

_LOCK: Final = ".lock"


@dataclass(frozen=True, slots=True)
class Validity:
    """How long signatures are valid, in days. A device treats a repository as frozen after `timestamp`."""

    root: int = 365
    targets: int = 90
    snapshot: int = 30
    timestamp: int = 7

    def until(self, role: str, now: datetime) -> datetime:
        """When a signature of a role that is made now expires."""
        days: int = getattr(self, role)
        return (now + timedelta(days=days)).replace(microsecond=0)


class SignedRepository:
    """A repository and the keys that sign it. Changes by several processes are made one after the other.

    Args:
        folder: of the repository.
        keys: the folder of the keys, which must not be in the repository.
        validity: of new signatures.
        now: returns the time.
        notify: gets a sentence about a change that was interrupted earlier.

    Raises:
        InvalidRequest: the keys would be delivered with the repository.
    """

    def __init__(
        self,
        folder: Path,
        keys: KeyFolder,
        validity: Validity | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        notify: Callable[[str], None] = lambda _text: None,
    ) -> None:
        if keys.folder.resolve().is_relative_to(folder.resolve()):
            raise InvalidRequest(
                f"the keys would be in {keys.folder}, inside the repository {folder}, which is delivered to everyone; "
                "name another folder with --keys"
            )
        self.folder = folder
        self._keys = keys
        self._validity = validity or Validity()
        self._now = now
        self._notify = notify

    def create(self, thresholds: Mapping[str, Threshold]) -> Path:
        """Make keys for all roles and an empty repository. Returns the path of the root that devices must trust.

        Raises:
            InvalidRequest: there is a repository already.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if self._path("timestamp", 0).exists():
                raise InvalidRequest(f"{self.folder} has a repository already; rotate its keys, or name another folder")
            root = Root(expires=self._expiry("root"), consistent_snapshot=True)
            for role in ROLES:
                threshold = thresholds.get(role, Threshold())
                for _ in range(threshold.keys):
                    root.add_key(self._keys.create(role).public_key, role)
                root.roles[role].threshold = threshold.signatures
            signed = Metadata(root)
            self._sign("root", signed, root)
            self._write("root", signed)
            self._write_targets(Metadata(Targets(expires=self._expiry("targets"))), root)
        return self._path("root", 1)

    def rotate(self, role: str) -> tuple[str, str]:
        """Replace the oldest key of a role by a new one, and sign everything again that the old one signed.

        Returns:
            The ids of the removed and of the new key.

        Raises:
            InvalidRequest: the keys that must sign are not here.
        """
        with self._changing():
            before = self._load("root", Root).signed
            metadata = self._load("root", Root)
            for each, named in before.roles.items():  # with a key missing, half of the rotation would be delivered
                self._keys.signers(each, named.keyids, named.threshold)
            removed = before.roles[role].keyids[0]
            added = self._keys.create(role).public_key
            metadata.signed.add_key(added, role)
            metadata.signed.revoke_key(removed, role)
            metadata.signed.version += 1
            metadata.signed.expires = self._expiry("root")
            metadata.signatures.clear()
            self._sign("root", metadata, before)  # devices follow only if old and new keys sign
            self._sign("root", metadata, metadata.signed)
            self._write("root", metadata)
            self._write_targets(self._load("targets", Targets), metadata.signed)
        return removed, added.keyid

    def targets(self) -> Mapping[str, TargetFile]:
        """The signed files by path. Raises InvalidRequest if there is no repository."""
        return self._load("targets", Targets).signed.targets

    def publish(
        self, files: Mapping[str, bytes], change: Callable[[Mapping[str, TargetFile]], Mapping[str, dict[str, Any]]]
    ) -> None:
        """Add files, change custom fields, and sign. Nothing is visible to devices before the last write.

        Args:
            files: content of new targets by path.
            change: gets the targets with the new files, and returns those that stay, with the custom fields of each.

        Raises:
            InvalidRequest: there is no repository, or the keys that must sign are not here.
        """
        with self._changing():
            root = self._load("root", Root).signed
            metadata = self._load("targets", Targets)
            targets = dict(metadata.signed.targets)
            for path, content in files.items():
                target = TargetFile.from_data(path, content, ["sha256"])
                write_atomically(self._target_path(target), content)
                if path in targets:
                    target.unrecognized_fields = targets[path].unrecognized_fields
                targets[path] = target
            stays = change(targets)
            for path, custom in stays.items():
                targets[path].unrecognized_fields = {"custom": custom} if custom else {}
            metadata.signed.targets = {path: targets[path] for path in stays}
            self._write_targets(metadata, root)

    def renew(self) -> datetime:
        """Sign snapshot and timestamp again without a change, and the others if they expire soon.

        Returns:
            Until when devices accept the repository if it is not renewed again.

        Raises:
            InvalidRequest: there is no repository, or the keys that must sign are not here.
        """
        with self._changing():
            root = self._load("root", Root).signed
            targets = self._load("targets", Targets)
            soon = self._now() + timedelta(days=self._validity.timestamp)
            if targets.signed.expires <= soon:
                self._write_targets(targets, root)
            else:
                self._write_snapshot(root, targets.signed.version)
            return min(self.expiries().values())

    def expiries(self) -> Mapping[str, datetime]:
        """When the newest metadata of each role expire."""
        return {
            "root": self._load("root", Root).signed.expires,
            "targets": self._load("targets", Targets).signed.expires,
            "snapshot": self._load("snapshot", Snapshot).signed.expires,
            "timestamp": self._load("timestamp", Timestamp).signed.expires,
        }

    def root_path(self) -> Path:
        """The first root, which devices trust."""
        return self._path("root", 1)

    def _write_targets(self, metadata: Metadata[Targets], root: Root) -> None:
        metadata.signed.version = self._unused("targets")
        metadata.signed.expires = self._expiry("targets")
        metadata.signatures.clear()
        self._sign("targets", metadata, root)
        self._write_snapshot(root, metadata.signed.version, metadata)

    def _write_snapshot(self, root: Root, targets_version: int, targets: Metadata[Targets] | None = None) -> None:
        """Sign snapshot and timestamp, and write them after new targets, if there are any."""
        version, meta = self._unused("snapshot"), {"targets.json": MetaFile(targets_version)}
        snapshot = Metadata(Snapshot(version, expires=self._expiry("snapshot"), meta=meta))
        self._sign("snapshot", snapshot, root)
        created = self._path("timestamp", 0).exists()
        before = self._load("timestamp", Timestamp).signed.version if created else 0
        expires = self._expiry("timestamp")
        timestamp = Metadata(Timestamp(before + 1, expires=expires, snapshot_meta=MetaFile(version)))
        self._sign("timestamp", timestamp, root)
        if targets is not None:
            self._write("targets", targets)
        self._write("snapshot", snapshot)
        self._write("timestamp", timestamp)

    def _sign(self, role: str, metadata: Metadata[Any], root: Root) -> None:
        """Add the signatures of a role as the root names its keys."""
        named = root.roles[role]
        for signer in self._keys.signers(role, named.keyids, named.threshold):
            metadata.sign(signer, append=True)

    def _write(self, role: str, metadata: Metadata[Any]) -> None:
        write_atomically(self._path(role, metadata.signed.version), metadata.to_bytes(JSONSerializer(compact=True)))

    def _unused(self, role: str) -> int:
        """The next version. One of an interrupted change is not used again, because caches may have its file."""
        return max(self._versions(role), default=0) + 1

    def _in_force(self, role: str) -> int:
        """The version of a role's metadata that devices read."""
        if role == "root":
            return max(self._versions("root"), default=1)
        if role == "targets":
            return self._load("snapshot", Snapshot).signed.meta["targets.json"].version
        return self._load("timestamp", Timestamp).signed.snapshot_meta.version if role == "snapshot" else 0

    def _load(self, role: str, _kind: type[Kind]) -> Metadata[Kind]:
        path = self._path(role, self._in_force(role))
        try:
            return Metadata[Kind].from_file(str(path))
        except (RepositoryError, OSError) as error:
            raise InvalidRequest(
                f"{self.folder} has no repository that can be read ({error}); make one with "
                "`anole release keys create --repository DIR`"
            ) from error

    def _versions(self, role: str) -> list[int]:
        paths = (self.folder / METADATA).glob(f"*.{role}.json")
        return [int(path.name.split(".")[0]) for path in paths if path.name.split(".")[0].isdigit()]

    def _path(self, role: str, version: int) -> Path:
        name = f"{role}.json" if role == "timestamp" else f"{version}.{role}.json"
        return self.folder / METADATA / name

    def _target_path(self, target: TargetFile) -> Path:
        folder, _, name = target.path.rpartition("/")
        return self.folder / TARGETS / folder / f"{target.hashes['sha256']}.{name}"

    def _expiry(self, role: str) -> datetime:
        return self._validity.until(role, self._now())

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the lock, and first bring what was interrupted to an end. `notify` says what was done."""
        with self._locked():
            root, targets = self._load("root", Root).signed, self._load("targets", Targets)
            rotated = not _is_signed("targets", targets, root)
            if rotated or self._unused("targets") > targets.signed.version + 1:
                self._write_targets(targets, root)
                self._notify(
                    "an earlier rotation of keys was interrupted, and is complete now"
                    if rotated
                    else "an earlier change was interrupted before devices could see it, and has no effect; run its "
                    "command again"
                )
            yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the repository's lock against other processes that change it."""
        if not self.folder.is_dir():
            raise InvalidRequest(
                f"there is no repository {self.folder}; make one with `anole release keys create --repository DIR`"
            )
        with (self.folder / _LOCK).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _is_signed(role: str, metadata: Metadata[Any], root: Root) -> bool:
    """Whether enough of the keys signed that the root names for the role."""
    try:
        root.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except UnsignedMetadataError:
        return False
    return True
