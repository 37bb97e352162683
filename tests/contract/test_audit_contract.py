"""Contract of every `Catalog` for the audit log: who changed what, and that it outlives what was changed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from service.domain.audit import Actor, AuditQuery, acting_as
from service.domain.client import ClientSettings
from service.domain.key import Grant
from service.domain.version import LIVE
from service.errors import AliasConflict
from service.store.catalog.catalog import Catalog
from service.store.catalog.keys import SqlKeys
from service.store.catalog.sqlite import SqliteDatabase
from service.store.ports import Database
from service.usecases.keys import create
from tests.contract.values import CLIENT, a_draft

STATION = Actor("anole_abcdefgh", "station 7", "r1")
EVERYTHING = AuditQuery()


def actions(catalog: Catalog, query: AuditQuery = EVERYTHING) -> list[str]:
    return [entry.action for entry in catalog.audit(query)]


def test_changes_are_recorded_with_who_made_them_newest_first(catalog: Catalog) -> None:
    with acting_as(STATION):
        catalog.publish(a_draft(), [LIVE])
        catalog.publish(a_draft(), [])
        catalog.move_alias(CLIENT, LIVE, 2, expected_revision=None)
        catalog.roll_back(CLIENT, LIVE)
        catalog.update_settings(CLIENT, ClientSettings(keep_last=3))
        catalog.delete_version(CLIENT, 2)
    entries = catalog.audit(EVERYTHING)
    assert {(entry.actor, entry.client) for entry in entries} == {(STATION, CLIENT)}
    assert [entry.id for entry in entries] == sorted((entry.id for entry in entries), reverse=True)
    assert [(entry.action, dict(entry.details)) for entry in reversed(entries)] == [
        ("version.create", {"version": 1}),
        ("alias.move", {"alias": LIVE, "version": 1, "previous": None, "reason": "adapt"}),
        ("version.create", {"version": 2}),
        ("alias.move", {"alias": LIVE, "version": 2, "previous": 1, "reason": "set"}),
        ("alias.move", {"alias": LIVE, "version": 1, "previous": 2, "reason": "rollback"}),
        ("settings.change", {"retain_samples": True, "keep_last": 3}),
        ("version.delete", {"version": 2}),
    ]


def test_a_version_from_corrected_samples_is_recorded_as_a_correction(catalog: Catalog) -> None:
    note = {"code": "corrected", "text": "", "values": {"relabelled": 2, "removed": 1}}
    catalog.publish(a_draft(report={"gate": {"details": [note]}}), [])
    (entry,) = catalog.audit(EVERYTHING)
    assert (entry.action, entry.details) == ("version.correct", {"version": 1, "relabelled": 2, "removed": 1})


def test_a_move_of_an_alias_says_who_made_it(catalog: Catalog) -> None:
    catalog.publish(a_draft(), [LIVE])
    with acting_as(STATION):
        moved = catalog.move_alias(CLIENT, LIVE, 1, expected_revision=None)
    assert (moved.actor, moved.actor_name) == (STATION.id, STATION.name)
    assert [move.actor for move in catalog.history(CLIENT)] == ["service", STATION.id]
    assert catalog.alias(CLIENT, LIVE) == moved


def test_a_change_that_fails_is_not_recorded(catalog: Catalog) -> None:
    catalog.publish(a_draft(), [])
    with pytest.raises(AliasConflict):
        catalog.move_alias(CLIENT, LIVE, 1, expected_revision=5)
    assert actions(catalog) == ["version.create"]


def test_entries_stay_when_their_client_is_deleted(catalog: Catalog) -> None:
    catalog.publish(a_draft(), [LIVE])
    with acting_as(STATION):
        catalog.delete_client(CLIENT)
    entries = catalog.audit(AuditQuery(clients=frozenset({CLIENT})))
    assert (entries[0].action, entries[0].actor, entries[0].details) == ("client.delete", STATION, {"versions": 1})
    assert [entry.action for entry in entries[1:]] == ["alias.move", "version.create"]


def test_entries_are_selected_by_client_time_and_id(catalog: Catalog) -> None:
    catalog.publish(a_draft(), [LIVE])
    catalog.publish(a_draft("line-2"), [])
    newest, moved, first = catalog.audit(EVERYTHING)
    assert catalog.audit(AuditQuery(clients=frozenset({"line-2"}))) == (newest,)
    assert catalog.audit(AuditQuery(clients=frozenset())) == ()
    assert catalog.audit(AuditQuery(since=newest.at)) == (newest,)
    assert catalog.audit(AuditQuery(until=first.at)) == ()
    assert first in catalog.audit(AuditQuery(until=first.at + timedelta(microseconds=1)))
    assert catalog.audit(AuditQuery(before=newest.id, limit=1)) == (moved,)


def test_new_and_revoked_keys_are_recorded_without_the_key(catalog: Catalog, database: Database) -> None:
    keys = SqlKeys(database)
    with acting_as(Actor("cli", "user 0")):
        key, record = create(keys, Grant("camera", ("predict",), (CLIENT,)))
        keys.revoke(record.prefix)
        keys.revoke(record.prefix)
    revoked, created = catalog.audit(EVERYTHING)
    assert (created.action, created.client, created.actor.id) == ("key.create", None, "cli")
    assert created.details == {"key": record.prefix, "name": "camera", "scopes": ["predict"], "clients": [CLIENT]}
    assert (revoked.action, revoked.details) == ("key.revoke", {"key": record.prefix, "name": "camera"})
    assert key not in str((revoked, created))


def test_a_copy_of_the_catalog_has_the_entries_and_loading_it_keeps_those_there(
    catalog: Catalog, database: Database, tmp_path: Path
) -> None:
    catalog.publish(a_draft(), [LIVE])
    catalog.export(tmp_path / "copy.sqlite3")
    catalog.delete_client(CLIENT)
    catalog.load(tmp_path / "copy.sqlite3")
    assert actions(catalog) == ["alias.move", "version.create", "client.delete", "alias.move", "version.create"]
    assert catalog.problems() == ()


def test_a_changed_entry_is_found_damaged(catalog_file: Path) -> None:
    database = SqliteDatabase(catalog_file)
    catalog = Catalog(database)
    catalog.publish(a_draft(), [])
    with database.writing(CLIENT) as connection:
        connection.exec_driver_sql("UPDATE audit SET actor = 'somebody'")
    assert "table audit" in catalog.problems()[0]
    catalog.close()
