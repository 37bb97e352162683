"""Every row of the catalog held to its seal, and rows to each other; and every row sealed, after the tables changed.

Knows no product. What the database itself finds wrong with its files is the database's to say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final

from sqlalchemy import Connection, Select, Table, and_, func, literal, select, update

from service.domain.version import SampleRef
from service.store.catalog.row_checksums import SEAL, row_seal, samples_seal
from service.store.catalog.tables import (
    ALIAS_MOVES,
    ALIASES,
    API_KEYS,
    CLIENT_SETTINGS,
    CLIENTS,
    IDEMPOTENCY,
    SAMPLES,
    VERSIONS,
)

_SEALED: Final = (CLIENTS, VERSIONS, ALIASES, ALIAS_MOVES, IDEMPOTENCY, CLIENT_SETTINGS, API_KEYS)
_OWNER: Final = "owner of the row"


def row_problems(connection: Connection) -> Iterator[str]:
    """Yield what is wrong with the rows, table by table."""
    for table in _SEALED:
        try:
            yield from _broken_seals(connection, table)
        except (ValueError, TypeError) as error:  # JSON or a time that cannot be read: the rows after it are not seen
            yield f"table {table.name}: a row cannot be understood ({error})"
    yield from _broken_sample_seals(connection)
    yield from _gaps(connection)


def seal_all(connection: Connection) -> None:
    """Seal every row as it is."""
    samples = _samples(connection)
    for row in connection.execute(select(VERSIONS.c.id)).all():
        mine = VERSIONS.c.id == row.id
        connection.execute(update(VERSIONS).where(mine).values(samples_seal=samples_seal(samples.get(row.id, []))))
    for table in _SEALED:
        for found in connection.execute(_owned(table)).mappings().all():
            seal = row_seal(table, found[_OWNER], found)
            connection.execute(update(table).where(_this(table, found)).values({SEAL: seal}))


def _broken_seals(connection: Connection, table: Table) -> Iterator[str]:
    for found in connection.execute(_owned(table)).mappings():
        if found[SEAL] != row_seal(table, found[_OWNER] or "", found):
            yield f"table {table.name}: {_called(table, found)} does not match its seal"


def _broken_sample_seals(connection: Connection) -> Iterator[str]:
    samples = _samples(connection)
    query = select(VERSIONS.c.id, VERSIONS.c.number, VERSIONS.c.samples_seal, CLIENTS.c.name)
    for row in connection.execute(query.outerjoin(CLIENTS, CLIENTS.c.id == VERSIONS.c.client_id)):
        if row.samples_seal != samples_seal(samples.get(row.id, [])):
            yield f"table samples: those of version {row.number} of client {row.name!r} do not match their seal"


def _samples(connection: Connection) -> Mapping[int, list[SampleRef]]:
    found: defaultdict[int, list[SampleRef]] = defaultdict(list)
    for row in connection.execute(select(SAMPLES).order_by(SAMPLES.c.version_id, SAMPLES.c.position)):
        found[row.version_id].append(SampleRef(row.digest, row.label, row.name))
    return found


def _gaps(connection: Connection) -> Iterator[str]:
    """Rows that are missing between others: versions are numbered without gaps, and so are the moves of an alias."""
    numbers = select(CLIENTS.c.name, CLIENTS.c.latest, func.count(VERSIONS.c.id).label("rows"))
    joined = numbers.outerjoin(VERSIONS, VERSIONS.c.client_id == CLIENTS.c.id).group_by(*CLIENTS.c)
    for row in connection.execute(joined):
        if row.latest != row.rows:
            yield f"client {row.name!r} has given {row.latest} numbers and {row.rows} of its versions have a row"
    log = and_(ALIAS_MOVES.c.client_id == ALIASES.c.client_id, ALIAS_MOVES.c.alias == ALIASES.c.alias)
    kept = select(ALIASES.c.alias, ALIASES.c.revision, func.count(ALIAS_MOVES.c.id).label("rows"))
    for row in connection.execute(kept.outerjoin(ALIAS_MOVES, log).group_by(*ALIASES.c)):
        if row.revision != row.rows:
            yield f"alias {row.alias!r} is at revision {row.revision} and {row.rows} of its moves have a row"
    pointed = select(func.count()).select_from(ALIAS_MOVES.outerjoin(ALIASES, log)).where(ALIASES.c.alias.is_(None))
    orphans = connection.execute(pointed).scalar_one()
    if orphans:
        yield f"{orphans} alias moves belong to no alias"


def _owned(table: Table) -> Select[Any]:
    """The rows of a table, each with the name of the client that it belongs to, or with an empty one."""
    if "client_id" not in table.c:
        return select(table, literal("").label(_OWNER))
    return select(table, CLIENTS.c.name.label(_OWNER)).outerjoin(CLIENTS, CLIENTS.c.id == table.c.client_id)


def _this(table: Table, found: Any) -> Any:
    return and_(*(column == found[column.name] for column in table.primary_key.columns))


def _called(table: Table, found: Any) -> str:
    names = [column.name for column in table.primary_key.columns]
    owner = f" of client {found[_OWNER]!r}" if found[_OWNER] else ""
    return "row " + ", ".join(f"{name} {found[name]!r}" for name in names) + owner
