"""Verifies every row of the catalog against its checksum and rows against each other; renews all checksums.

`renew_checksums` runs after a migration, because a checksum covers all columns of its table. Damage to the database's
files is reported by `Database.problems`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import Connection, Select, Table, and_, func, literal, select, update

from service.store.catalog.queries import read_samples
from service.store.catalog.tables import (
    ALIAS_MOVES,
    ALIASES,
    API_KEYS,
    AUDIT,
    CHECKSUM_COLUMN,
    CLIENT_SETTINGS,
    CLIENTS,
    IDEMPOTENCY,
    JOBS,
    PREDICTIONS,
    VERSIONS,
    row_checksum,
    samples_checksum,
)

_WITH_CHECKSUM: Final = (
    *(CLIENTS, VERSIONS, ALIASES, ALIAS_MOVES, IDEMPOTENCY, CLIENT_SETTINGS),
    *(API_KEYS, AUDIT, JOBS, PREDICTIONS),
)
_ROWS_AT_ONCE: Final = 5_000
_OWNER: Final = "owner of the row"


def row_problems(connection: Connection) -> Iterator[str]:
    """Yield what is wrong with the rows, table by table."""
    for table in _WITH_CHECKSUM:
        try:
            yield from _checksum_problems(connection, table)
        except (ValueError, TypeError) as error:  # invalid JSON or time; the rows after it are not checked
            yield f"table {table.name}: a row cannot be decoded ({error})"
    yield from _sample_problems(connection)
    yield from _missing_rows(connection)


def renew_checksums(connection: Connection) -> None:
    """Compute the checksum of every row as it is now."""
    samples = read_samples(connection)
    for row in connection.execute(select(VERSIONS.c.id)).all():
        this = VERSIONS.c.id == row.id
        checksum = samples_checksum(samples.get(row.id, []))
        connection.execute(update(VERSIONS).where(this).values(samples_seal=checksum))
    for table in _WITH_CHECKSUM:
        for found in _all_rows(connection, table):
            this = and_(*(column == found[column.name] for column in table.primary_key.columns))
            values = {CHECKSUM_COLUMN: row_checksum(table, found[_OWNER], found)}
            connection.execute(update(table).where(this).values(values))


def _all_rows(connection: Connection, table: Table) -> Iterator[Any]:
    """Yield the rows of a table that may be changed meanwhile; of the prediction log, which may be long, in parts."""
    if table is not PREDICTIONS:
        yield from connection.execute(_with_owner(table)).mappings().all()
        return
    part = _with_owner(table).order_by(table.c.id).limit(_ROWS_AT_ONCE)
    rows = connection.execute(part).mappings().all()
    while rows:
        yield from rows
        rows = connection.execute(part.where(table.c.id > rows[-1]["id"])).mappings().all()


def _checksum_problems(connection: Connection, table: Table) -> Iterator[str]:
    for found in connection.execute(_with_owner(table)).mappings():
        if found[CHECKSUM_COLUMN] != row_checksum(table, found[_OWNER] or "", found):
            yield f"table {table.name}: {_describe(table, found)} does not match its checksum"


def _sample_problems(connection: Connection) -> Iterator[str]:
    query = select(VERSIONS.c.id, VERSIONS.c.number, VERSIONS.c.samples_seal, CLIENTS.c.name)
    for row in connection.execute(query.outerjoin(CLIENTS, CLIENTS.c.id == VERSIONS.c.client_id)).all():
        samples = read_samples(connection, select(VERSIONS.c.id).where(VERSIONS.c.id == row.id))
        if row.samples_seal != samples_checksum(samples.get(row.id, [])):
            yield f"table samples: those of version {row.number} of client {row.name!r} do not match their checksum"


def _missing_rows(connection: Connection) -> Iterator[str]:
    """Yield gaps: version numbers and the revisions of an alias have none."""
    numbers = select(CLIENTS.c.name, CLIENTS.c.latest, func.count(VERSIONS.c.id).label("rows"))
    for row in connection.execute(
        numbers.outerjoin(VERSIONS, VERSIONS.c.client_id == CLIENTS.c.id).group_by(*CLIENTS.c)
    ):
        if row.latest != row.rows:
            yield f"client {row.name!r} has used {row.latest} version numbers, but {row.rows} versions have a row"
    log = and_(ALIAS_MOVES.c.client_id == ALIASES.c.client_id, ALIAS_MOVES.c.alias == ALIASES.c.alias)
    revisions = select(ALIASES.c.alias, ALIASES.c.revision, func.count(ALIAS_MOVES.c.id).label("rows"))
    for row in connection.execute(revisions.outerjoin(ALIAS_MOVES, log).group_by(*ALIASES.c)):
        if row.revision != row.rows:
            yield f"alias {row.alias!r} is at revision {row.revision}, but {row.rows} of its moves have a row"
    without_alias = select(func.count()).select_from(ALIAS_MOVES.outerjoin(ALIASES, log))
    orphans = connection.execute(without_alias.where(ALIASES.c.alias.is_(None))).scalar_one()
    if orphans:
        yield f"{orphans} alias moves belong to no alias"


def _with_owner(table: Table) -> Select[Any]:
    """Select the rows of a table, each with the name of the client that it belongs to, or an empty one."""
    if "client_id" not in table.c:
        return select(table, literal("").label(_OWNER))
    return select(table, CLIENTS.c.name.label(_OWNER)).outerjoin(CLIENTS, CLIENTS.c.id == table.c.client_id)


def _describe(table: Table, found: Any) -> str:
    names = [column.name for column in table.primary_key.columns]
    owner = f" of client {found[_OWNER]!r}" if found[_OWNER] else ""
    return "row " + ", ".join(f"{name} {found[name]!r}" for name in names) + owner
