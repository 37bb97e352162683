"""Faults that the store could have had, to show that the campaign finds them.

Each replaces functions of the store in this process, which then ends with it. No file of the product is changed.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from service.domain.version import Idempotency, Publication, Version, VersionDraft
from service.errors import UnknownClient
from service.store import backup, maintenance
from service.store.blobs import local as blobs_local
from service.store.blobs.local import LocalBlobs
from service.store.blobs.s3 import ObjectBlobs
from service.store.catalog import publishing
from service.store.catalog.catalog import Catalog
from service.store.catalog.publishing import Publishing
from service.store.catalog.sqlite import SqliteDatabase
from service.store.ports import Blobs, utc_now
from service.store.version_store import VersionStore
from tests.crash.sync_faults import (
    backup_folder_not_synced,
    commit_not_on_the_server,
    commit_not_synced,
    existing_blobs_not_synced,
    file_not_synced,
    folder_not_synced,
    new_space_not_synced,
    renamed_before_synced,
    store_folder_not_synced,
)


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, and how it is found.

    Attributes:
        description: what is wrong.
        apply: puts the fault into this process.
        kinds: a short run that shows it.
        found_by: the part of the campaign that finds it: "calls"; "traced" for kills within a commit; "power" if a
            kill alone loses nothing, and "files" if that is in SQLite's files; "shared" for kills of a process whose
            store is in PostgreSQL and S3, and "stops" for stops of PostgreSQL.
    """

    description: str
    apply: Callable[[], None]
    kinds: tuple[str, ...]
    found_by: str = "calls"


def apply_fault(name: str) -> None:
    """Apply the fault of that name to this process."""
    FAULTS[name].apply()


def _replace(owner: Any, name: str, new: Any) -> None:
    setattr(owner, name, new)


def row_before_blobs(blobs: type[Blobs] = LocalBlobs) -> None:
    put = blobs.put
    pending: list[Any] = []

    def later(self: Blobs, space: str, contents: Sequence[bytes]) -> tuple[str, ...]:
        pending.append((self, space, contents))
        return tuple(hashlib.sha256(content).hexdigest() for content in contents)

    def publish(self: VersionStore, draft: VersionDraft, aliases: Sequence[str], key: Any = None) -> Publication:
        made = self.catalog.publish(draft, aliases, idempotency=key)
        while pending:
            put(*pending.pop())
        return made

    _replace(blobs, "put", later)
    _replace(VersionStore, "publish", publish)


def row_before_objects() -> None:
    row_before_blobs(ObjectBlobs)


def acknowledged_before_commit() -> None:
    publish = VersionStore.publish
    pending: list[tuple[VersionStore, VersionDraft, Sequence[str], Any]] = []

    def publish_pending() -> None:
        while pending:
            publish(*pending.pop())

    def after_pending(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            publish_pending()
            return real(*arguments, **named)

        return call

    def publish_later(self: VersionStore, draft: VersionDraft, aliases: Sequence[str], key: Any = None) -> Publication:
        publish_pending()
        try:
            number = self.catalog.client(draft.client).latest + 1
        except UnknownClient:
            number = 1
        pending.append((self, draft, aliases, key))
        return Publication(Version(number, utc_now(), draft), (), number)

    for name in ("put_samples", "collect", "delete_version", "update_settings"):
        _replace(VersionStore, name, after_pending(getattr(VersionStore, name)))
    for name in ("version", "alias", "roll_back", "move_alias"):
        _replace(Catalog, name, after_pending(getattr(Catalog, name)))
    _replace(VersionStore, "publish", publish_later)


def written_in_place() -> None:
    def put(self: LocalBlobs, space: str, contents: Sequence[bytes]) -> tuple[str, ...]:
        folder = self._folder(space)
        folder.mkdir(exist_ok=True)
        digests = tuple(hashlib.sha256(content).hexdigest() for content in contents)
        for digest, content in zip(digests, contents, strict=True):
            if not blobs_local._is_intact(folder / digest, digest):
                handle = os.open(folder / digest, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(handle)
        self._sync_folder(folder)
        self._sync_folder(self._root)
        return digests

    _replace(LocalBlobs, "put", put)


def damaged_blob_counts_as_stored() -> None:
    _replace(blobs_local, "_is_intact", lambda path, _digest: path.is_file())


def digest_not_verified() -> None:
    _replace(LocalBlobs, "get", lambda self, space, digest: self._path(space, digest).read_bytes())


def alias_moved_at_any_revision() -> None:
    _replace(publishing, "_require_revision", lambda *_: None)


def version_and_alias_in_two_transactions() -> None:
    publish = Catalog.publish

    def publish_apart(self: Catalog, draft: VersionDraft, aliases: Sequence[str], **named: Any) -> Publication:
        made = publish(self, draft, (), **named)
        with self._publishing(draft.client) as transaction:
            client = transaction.get_or_create_client(draft.client)
            number = made.version.number
            moves = tuple(transaction.move_alias(client, alias, number, reason="adapt") for alias in aliases)
        return replace(made, moves=moves)

    _replace(Catalog, "publish", publish_apart)


def key_in_its_own_transaction() -> None:
    publish = Catalog.publish

    def publish_apart(self: Catalog, draft: VersionDraft, aliases: Sequence[str], **named: Any) -> Publication:
        key: Idempotency | None = named.pop("idempotency", None)
        known = None if key is None else self.recall(draft.client, key)
        if known is not None:
            return known
        made = publish(self, draft, aliases, **named)
        if key is not None:
            with self._publishing(draft.client) as transaction:
                client = transaction.get_or_create_client(draft.client)
                transaction.insert_idempotency(client, key, made.version.number, made.live)
        return made

    _replace(Catalog, "publish", publish_apart)


def collected_without_grace() -> None:
    collect = maintenance.collect_space
    _replace(
        maintenance,
        "collect_space",
        lambda catalog, blobs, space, *, grace_s: collect(catalog, blobs, space, grace_s=0),
    )


def published_without_checking_blobs() -> None:
    _replace(LocalBlobs, "missing", lambda *_: frozenset())


def blobs_deleted_before_rows() -> None:
    def delete(catalog: Any, blobs: Any, client: str, number: int) -> None:
        version = catalog.version(client, number)
        others = [other.draft.required_blobs for other in catalog.versions(client) if other.number != number]
        blobs.delete(client, version.draft.required_blobs.difference(*others))
        catalog.delete_version(client, number)

    _replace(maintenance, "delete_version", delete)


def shared_blobs_deleted() -> None:
    def delete(catalog: Any, blobs: Any, client: str, number: int) -> None:
        blobs.delete(client, catalog.delete_version(client, number).draft.required_blobs)

    _replace(maintenance, "delete_version", delete)


def client_blobs_deleted_before_rows() -> None:
    erase = maintenance.delete_client

    def blobs_first(catalog: Any, blobs: Any, client: str) -> Any:
        blobs.delete(client, [entry.digest for entry in blobs.entries(client)])
        return erase(catalog, blobs, client)

    _replace(maintenance, "delete_client", blobs_first)


def published_for_deleted_client() -> None:
    _replace(Publishing, "_require_client", lambda *_: None)


def blobs_of_failed_version_kept() -> None:
    _replace(maintenance, "discard", lambda *_: None)


def backup_pruned_before_it_is_complete() -> None:
    kept = backup._kept_generations

    def prune_first(catalog: Catalog, folder: Path, generations: Any, keep: int) -> Any:
        with backup._verified_catalog(folder, generations[0]) as path:
            required, _ = backup._required_blobs(catalog, path)
        backup._delete_unneeded(backup._Folder(folder, LocalBlobs(folder / backup.BLOBS)), [required])
        return kept(catalog, folder, generations, keep)

    _replace(backup, "_kept_generations", prune_first)


def leftovers_not_removed() -> None:
    _replace(LocalBlobs, "sweep", lambda *_, **__: 0)


def rollback_deletes_log_entry() -> None:
    move = Publishing.move_alias

    def delete_log_entry(self: Publishing, client: Any, alias: str, version: int, *, reason: str, **named: Any) -> Any:
        if reason != "rollback":
            return move(self, client, alias, version, reason=reason, **named)
        self.connection.exec_driver_sql("DELETE FROM alias_moves WHERE id = (SELECT max(id) FROM alias_moves)")
        return move(self, client, alias, version, reason="adapt")

    _replace(Publishing, "move_alias", delete_log_entry)


def committed_without_journal() -> None:
    def without(_self: SqliteDatabase, connection: sqlite3.Connection, _wanted: str) -> None:
        connection.execute("PRAGMA journal_mode=OFF")

    _replace(SqliteDatabase, "_set_journal", without)


FAULTS: Final[dict[str, Fault]] = {
    fault.apply.__name__: fault
    for fault in (
        Fault("the row is committed before the blobs are stored", row_before_blobs, ("publish",)),
        Fault("a publish is acknowledged before its commit", acknowledged_before_commit, ("publish", "publish")),
        Fault("blobs are written under their own names", written_in_place, ("publish",)),
        Fault("a damaged blob counts as stored", damaged_blob_counts_as_stored, ("damaged_blob",)),
        Fault("blobs are not compared with their digest when read", digest_not_verified, ("damaged_blob",)),
        Fault("an alias is moved at any revision", alias_moved_at_any_revision, ("publish", "stale")),
        Fault("version and alias are written in two transactions", version_and_alias_in_two_transactions, ("publish",)),
        Fault("the idempotency key is written in a transaction of its own", key_in_its_own_transaction, ("keyed",)),
        Fault("a collection deletes new blobs", collected_without_grace, ("collect_between",)),
        Fault("a publish does not check that its blobs exist", published_without_checking_blobs, ("collected_blobs",)),
        Fault(
            "blobs are deleted before their rows", blobs_deleted_before_rows, ("collect_between", "publish", "delete")
        ),
        Fault("blobs that other versions need are deleted", shared_blobs_deleted, ("publish",) * 6 + ("delete",)),
        Fault(
            "a client's blobs are erased before its rows",
            client_blobs_deleted_before_rows,
            ("publish", "delete_client"),
        ),
        Fault(
            "a version is recorded for a client that was deleted meanwhile",
            published_for_deleted_client,
            ("publish", "deleted_between"),
        ),
        Fault(
            "what was stored for a version that is not recorded stays",
            blobs_of_failed_version_kept,
            ("publish", "deleted_between"),
        ),
        Fault(
            "a backup deletes old blobs before the new backup is complete",
            backup_pruned_before_it_is_complete,
            ("publish", "backup", "delete_client", "backup"),
        ),
        Fault(
            "leftovers of interrupted writes are never removed", leftovers_not_removed, ("abandoned_write", "collect")
        ),
        Fault(
            "a rollback deletes an entry of the log", rollback_deletes_log_entry, ("publish", "publish", "roll_back")
        ),
        Fault("a commit has no journal", committed_without_journal, ("publish", "keyed"), "traced"),
        Fault("files are not synced", file_not_synced, ("publish",), "power"),
        Fault("folders are not synced", folder_not_synced, ("publish",), "power"),
        Fault("the parent of a new client's folder is not synced", new_space_not_synced, ("publish",), "power"),
        Fault("the parent of a new store's folder is not synced", store_folder_not_synced, ("publish",), "power"),
        Fault(
            "existing blobs are not synced",
            existing_blobs_not_synced,
            ("publish", "unsynced_rename", "publish"),
            "power",
        ),
        Fault("files are synced after they are renamed", renamed_before_synced, ("publish",), "power"),
        Fault("commits of SQLite are not synced", commit_not_synced, ("publish", "keyed"), "files"),
        Fault(
            "the parent of a new backup's folder is not synced",
            backup_folder_not_synced,
            ("publish", "backup"),
            "files",
        ),
        Fault("the row is committed before the objects are stored", row_before_objects, ("publish",), "shared"),
        Fault("PostgreSQL acknowledges commits before they are on its disk", commit_not_on_the_server, (), "stops"),
    )
}
