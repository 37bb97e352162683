"""Faults as they could have been made in the store, each put into this process for good, to try the campaign on.

A campaign that finds nothing has shown something only if it finds these. Nothing of the product is changed on the disk.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from service.domain.version import Idempotency, Publication, Version, VersionDraft
from service.errors import UnknownClient
from service.store import maintenance
from service.store.blobs import local as blobs_local
from service.store.blobs.local import LocalBlobs
from service.store.catalog import catalog as catalog_module
from service.store.catalog.catalog import SqlCatalog, Statements
from service.store.catalog.sqlite import SqliteDatabase
from service.store.ports import utc_now
from service.store.version_store import VersionStore
from tests.crash.seeded_syncs import (
    deduplicated_without_sync,
    file_not_synced,
    folder_not_synced,
    new_space_not_synced,
    renamed_before_synced,
    store_s_own_folder_not_synced,
)


@dataclass(frozen=True, slots=True)
class Bug:
    """A fault.

    Attributes:
        said: what is wrong, in words.
        put_in: does it.
        kinds: a short life in which it shows.
        by: what shows it: "calls" before which its process is killed, "traced" for those within a commit, or "power"
            where a killed process loses nothing.
    """

    said: str
    put_in: Callable[[], None]
    kinds: tuple[str, ...]
    by: str = "calls"


def seed_bug(name: str) -> None:
    """Put the fault of that name into this process."""
    BUGS[name].put_in()


def _replace(owner: Any, name: str, new: Any) -> None:
    setattr(owner, name, new)


def row_before_blobs() -> None:
    put = LocalBlobs.put
    owed: list[Any] = []

    def later(self: LocalBlobs, space: str, contents: Sequence[bytes]) -> tuple[str, ...]:
        owed.append((self, space, contents))
        return tuple(hashlib.sha256(content).hexdigest() for content in contents)

    def publish(self: VersionStore, draft: VersionDraft, aliases: Sequence[str], key: Any = None) -> Publication:
        made = self._catalog.publish(draft, aliases, idempotency=key)
        while owed:
            put(*owed.pop())
        return made

    _replace(LocalBlobs, "put", later)
    _replace(VersionStore, "publish", publish)


def acknowledged_before_commit() -> None:
    publish = VersionStore.publish
    owed: list[Any] = []

    def pay(self: VersionStore) -> None:
        while owed:
            publish(self, *owed.pop())

    def paying(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: VersionStore, *arguments: Any, **named: Any) -> Any:
            pay(self)
            return real(self, *arguments, **named)

        return call

    def promised(self: VersionStore, draft: VersionDraft, aliases: Sequence[str], key: Any = None) -> Publication:
        pay(self)
        try:
            number = self.client(draft.client).latest + 1
        except UnknownClient:
            number = 1
        owed.append((draft, aliases, key))
        return Publication(Version(number, utc_now(), draft), (), number)

    for name in (
        "put_samples",
        "collect",
        "version",
        "alias",
        "roll_back",
        "move_alias",
        "delete_version",
        "update_settings",
    ):
        _replace(VersionStore, name, paying(getattr(VersionStore, name)))
    _replace(VersionStore, "publish", promised)


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


def torn_blob_believed() -> None:
    _replace(blobs_local, "_is_intact", lambda path, _digest: path.is_file())


def checksum_not_checked() -> None:
    _replace(LocalBlobs, "get", lambda self, space, digest: self._path(space, digest).read_bytes())


def alias_without_compare() -> None:
    _replace(catalog_module, "_require_revision", lambda *_: None)


def version_and_alias_apart() -> None:
    publish = SqlCatalog.publish

    def apart(self: SqlCatalog, draft: VersionDraft, aliases: Sequence[str], **named: Any) -> Publication:
        made = publish(self, draft, (), **named)
        moves = tuple(
            self.move_alias(draft.client, alias, made.version.number, expected_revision=None, reason="adapt")
            for alias in aliases
        )
        return replace(made, moves=moves)

    _replace(SqlCatalog, "publish", apart)


def key_recorded_apart() -> None:
    publish = SqlCatalog.publish

    def apart(self: SqlCatalog, draft: VersionDraft, aliases: Sequence[str], **named: Any) -> Publication:
        key: Idempotency | None = named.pop("idempotency", None)
        known = None if key is None else self.recall(draft.client, key)
        if known is not None:
            return known
        made = publish(self, draft, aliases, **named)
        if key is not None:
            with self._writing(draft.client) as write:
                client = write.get_or_create_client(draft.client)
                write.insert_idempotency(client, key, made.version.number, made.live)
        return made

    _replace(SqlCatalog, "publish", apart)


def collected_without_grace() -> None:
    collect = maintenance.collect_space
    _replace(
        maintenance,
        "collect_space",
        lambda catalog, blobs, space, *, grace_s: collect(catalog, blobs, space, grace_s=0),
    )


def published_without_a_look() -> None:
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


def client_erased_blobs_first() -> None:
    erase = maintenance.delete_client

    def blobs_first(catalog: Any, blobs: Any, client: str) -> Any:
        blobs.delete(client, [entry.digest for entry in blobs.entries(client)])
        return erase(catalog, blobs, client)

    _replace(maintenance, "delete_client", blobs_first)


def leftovers_stay() -> None:
    _replace(LocalBlobs, "sweep", lambda *_, **__: 0)


def log_taken_back() -> None:
    move = Statements.move_alias

    def unmoved(self: Statements, client: Any, alias: str, version: int, *, reason: str, **named: Any) -> Any:
        if reason != "rollback":
            return move(self, client, alias, version, reason=reason, **named)
        self.connection.exec_driver_sql("DELETE FROM alias_moves WHERE id = (SELECT max(id) FROM alias_moves)")
        return move(self, client, alias, version, reason="adapt")

    _replace(Statements, "move_alias", unmoved)


def committed_without_journal() -> None:
    def without(_self: SqliteDatabase, connection: sqlite3.Connection, _wanted: str) -> None:
        connection.execute("PRAGMA journal_mode=OFF")

    _replace(SqliteDatabase, "_set_journal", without)


BUGS: Final[dict[str, Bug]] = {
    bug.put_in.__name__: bug
    for bug in (
        Bug("the row is committed before the blobs are stored", row_before_blobs, ("publish",)),
        Bug("a publish is acknowledged before its commit", acknowledged_before_commit, ("publish", "publish")),
        Bug("blobs are written under their own names", written_in_place, ("publish",)),
        Bug("a damaged blob counts as stored", torn_blob_believed, ("decay",)),
        Bug("what is read is not held to its digest", checksum_not_checked, ("decay",)),
        Bug("an alias is moved whatever its revision", alias_without_compare, ("publish", "stale")),
        Bug("version and alias are two transactions", version_and_alias_apart, ("publish",)),
        Bug("the key of a request is a transaction of its own", key_recorded_apart, ("keyed",)),
        Bug("a collection gives no grace", collected_without_grace, ("patient",)),
        Bug("a publish does not look for its blobs", published_without_a_look, ("overtaken",)),
        Bug("blobs are deleted before their rows", blobs_deleted_before_rows, ("patient", "publish", "delete")),
        Bug("blobs that others need are deleted", shared_blobs_deleted, ("publish",) * 6 + ("delete",)),
        Bug("a client's blobs are erased before its rows", client_erased_blobs_first, ("publish", "erase")),
        Bug("what cut-off writes leave is never removed", leftovers_stay, ("abandon", "collect")),
        Bug("a roll-back takes a line of the log back", log_taken_back, ("publish", "publish", "roll_back")),
        Bug("a commit has no journal", committed_without_journal, ("publish", "keyed"), "traced"),
        Bug("files are not synced", file_not_synced, ("publish",), "power"),
        Bug("folders are not synced", folder_not_synced, ("publish",), "power"),
        Bug("the folder of a new client's folder is not synced", new_space_not_synced, ("publish",), "power"),
        Bug("the folder of a new store's folder is not synced", store_s_own_folder_not_synced, ("publish",), "power"),
        Bug("what is there is not synced", deduplicated_without_sync, ("publish", "cut_short", "publish"), "power"),
        Bug("files are synced after they are renamed", renamed_before_synced, ("publish",), "power"),
    )
}
