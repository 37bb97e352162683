"""Upgrades a catalog of every earlier release, on either database, and checks all its data."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, make_url, text

from service.domain.version import LIVE, Idempotency
from service.store.catalog.catalog import Catalog
from service.store.catalog.migrate import upgrade
from service.store.catalog.postgres import PostgresDatabase
from service.store.catalog.sqlite import SqliteDatabase
from service.store.catalog.tables import METADATA
from service.store.ports import ALL_CLIENTS, Database
from tests.contract.values import CLIENT, a_draft, digest_of
from tests.real_parts import PostgresServer

MADE = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
FIRST = "0001"
REPORT = '{"support_accuracy":1.0,"loss_curve":[1.5,0.25],"interval":null}'
RECIPE = '{"steps":12,"learning_rate":0.05,"adapted":["head.*"]}'


def config(connection: Connection | None = None) -> Config:
    settings = Config()
    settings.set_main_option("script_location", "service.store.catalog:migrations")
    settings.attributes["connection"] = connection
    return settings


REVISIONS = [script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without any table."""
    if request.param == "sqlite":
        sqlite = SqliteDatabase(tmp_path / "catalog.sqlite3")
        yield sqlite
        sqlite.close()
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = server.new_database()
    postgresql = PostgresDatabase(make_url(server.url(name)))
    yield postgresql
    postgresql.close()
    server.drop(name)


def brought_to(database: Database, revision: str) -> None:
    with database.writing(ALL_CLIENTS) as connection:
        command.upgrade(config(connection), revision)


def filled_by_the_first_release(database: Database) -> None:
    """One client with a version of two samples that is live by a request with a key, and a deleted one."""
    made = MADE.replace(tzinfo=None) if isinstance(database, SqliteDatabase) else MADE
    shared = {
        "made": f"{made.isoformat(sep=' ')}",
        "client": CLIENT,
        "recipe": RECIPE,
        "report": REPORT,
        "net": digest_of("surfaces"),
        "weights": digest_of("weights"),
        "body": digest_of("body"),
    }
    version = (
        "INSERT INTO versions (id, client_id, number, created_at, deleted_at, parent, classes, meta_model, "
        "meta_model_digest, recipe, seed, weights_digest, weights_bytes, device, batched_with, report) VALUES "
        "({id}, 1, {id}, {made}, {deleted}, NULL, '[\"dent\",\"scratch\"]', 'surfaces', '{net}', '{recipe}', 7, "
        "'{weights}', 1234, 'cpu', 0, '{report}')"
    )
    shown = {**shared, "made": f"'{shared['made']}'"}
    statements = [
        "INSERT INTO clients (id, name, created_at, latest) VALUES (1, '{client}', {made}, 2)".format(**shown),
        version.format(**shown, id=1, deleted="NULL"),
        version.format(**shown, id=2, deleted=shown["made"]),
        *(
            f"INSERT INTO samples (version_id, position, digest, label, name) VALUES "
            f"(1, {i}, '{digest_of(name)}', '{name.split('-')[0]}', '{name}.png')"
            for i, name in enumerate(("scratch-1", "dent-1"))
        ),
        "INSERT INTO aliases (client_id, alias, revision, version) VALUES (1, 'live', 1, 1)",
        "INSERT INTO alias_moves (id, client_id, alias, revision, version, previous, moved_at, reason, restores) "
        "VALUES (1, 1, 'live', 1, 1, NULL, {made}, 'adapt', NULL)".format(**shown),
        "INSERT INTO idempotency (client_id, key, body_digest, version, live, created_at) VALUES "
        "(1, 'key-1', '{body}', 1, 1, {made})".format(**shown),
    ]
    with database.writing(ALL_CLIENTS) as connection:
        for statement in statements:
            connection.execute(text(statement.replace(":", "\\:")))
        if not isinstance(database, SqliteDatabase):  # what had given these numbers goes on after them
            for table in ("clients", "versions", "alias_moves"):
                connection.execute(text(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), 2)"))


@pytest.mark.parametrize("revision", REVISIONS[1:])
def test_a_catalog_of_any_earlier_release_is_upgraded_with_all_its_data(database: Database, revision: str) -> None:
    brought_to(database, FIRST)
    filled_by_the_first_release(database)
    brought_to(database, revision)
    upgrade(database)
    catalog = Catalog(database)
    version = catalog.version(CLIENT, 1)
    assert (version.draft, version.created_at) == (a_draft(), MADE)
    assert [found.number for found in catalog.versions(CLIENT)] == [1]
    assert [(move.version, move.reason, move.moved_at) for move in catalog.history(CLIENT)] == [(1, "adapt", MADE)]
    assert catalog.served(CLIENT, LIVE).weights_digest == digest_of("weights")
    replayed = catalog.recall(CLIENT, Idempotency("key-1", digest_of("body")))
    assert replayed is not None
    assert (replayed.version, replayed.live) == (version, 1)
    made = catalog.publish(a_draft(), [LIVE])
    assert (made.version.number, made.moves[0].revision, made.moves[0].previous) == (3, 2, 1)
    assert catalog.problems() == ()


def test_the_migrations_create_exactly_the_tables_that_the_catalog_uses(database: Database) -> None:
    upgrade(database)
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, METADATA) == []
        assert context.get_current_revision() == REVISIONS[0]


def test_every_migration_can_be_reverted(database: Database) -> None:
    upgrade(database)
    with database.writing(ALL_CLIENTS) as connection:
        command.downgrade(config(connection), "base")
    brought_to(database, FIRST)
    filled_by_the_first_release(database)
    upgrade(database)
    with database.writing(ALL_CLIENTS) as connection:
        command.downgrade(config(connection), FIRST)
    upgrade(database)
    assert Catalog(database).version(CLIENT, 1).draft == a_draft()
