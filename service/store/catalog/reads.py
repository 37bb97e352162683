"""The catalog's queries: rows in, domain values out, on a connection that the caller has opened. Writes nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, Select, and_, bindparam, func, select

from service.domain.client import ClientSettings, ClientSummary
from service.domain.version import Idempotency, Publication, SampleRef, ServedVersion, Version
from service.errors import IdempotencyMismatch, UnknownClient, UnknownVersion
from service.store.catalog.moves import current_moves, live_version, moves_to, need_move
from service.store.catalog.row_checksums import verify
from service.store.catalog.rows import ClientKey, served_of, served_part, verify_alias, verify_version, version_of
from service.store.catalog.tables import ALIASES, CLIENT_SETTINGS, CLIENTS, IDEMPOTENCY, SAMPLES, VERSIONS
from service.store.needs import needed_by

HIGHEST_NUMBER: Final = 2**31 - 1


def find_client(connection: Connection, name: str) -> ClientKey | None:
    """The client's key, or None. Raises VersionCorrupt."""
    found = connection.execute(select(CLIENTS).where(CLIENTS.c.name == name)).mappings().one_or_none()
    if found is None:
        return None
    verify(CLIENTS, "", found, f"client {name!r}")
    return ClientKey(found["id"], name)


def need_client(connection: Connection, name: str) -> ClientKey:
    """The client's key. Raises UnknownClient."""
    client = find_client(connection, name)
    if client is None:
        raise UnknownClient(name)
    return client


def summaries(connection: Connection, name: str | None = None) -> tuple[ClientSummary, ...]:
    """All clients by name, or the one of that name, if there is one."""
    kept = and_(VERSIONS.c.client_id == CLIENTS.c.id, VERSIONS.c.deleted_at.is_(None))
    query = select(CLIENTS, func.count(VERSIONS.c.id).label("versions")).outerjoin(VERSIONS, kept)
    if name is not None:
        query = query.where(CLIENTS.c.name == name)
    rows = connection.execute(query.group_by(*CLIENTS.c).order_by(CLIENTS.c.name)).mappings().all()
    for row in rows:
        verify(CLIENTS, "", row, f"client {row['name']!r}")
    moves = current_moves(connection, None if name is None else [row["id"] for row in rows])
    return tuple(
        ClientSummary(row["name"], row["created_at"], row["versions"], row["latest"], moves.get(row["id"], {}))
        for row in rows
    )


def names(connection: Connection) -> tuple[str, ...]:
    """The names of all clients as their rows have them, held to no seal."""
    return tuple(connection.execute(select(CLIENTS.c.name).order_by(CLIENTS.c.name)).scalars())


def need_version(connection: Connection, client: ClientKey, number: int) -> Version:
    """A version not deleted. Raises UnknownVersion."""
    version = any_version(connection, client, number)
    if version is None:
        raise UnknownVersion(f"client {client.name!r} has no version {number}; its versions are listed under it")
    if version.deleted_at is not None:
        raise UnknownVersion(f"version {number} of client {client.name!r} was deleted; its number is not used again")
    return version


_SERVED: Final = (
    select(VERSIONS)
    .join(CLIENTS, CLIENTS.c.id == VERSIONS.c.client_id)
    .where(CLIENTS.c.name == bindparam("client"), VERSIONS.c.deleted_at.is_(None))
)
_POINTS: Final = and_(ALIASES.c.client_id == VERSIONS.c.client_id, ALIASES.c.version == VERSIONS.c.number)
_SERVED_BY_NUMBER: Final = _SERVED.where(VERSIONS.c.number == bindparam("reference"))
_SERVED_BY_ALIAS: Final = (
    _SERVED.join(ALIASES, _POINTS)
    .where(ALIASES.c.alias == bindparam("reference"))
    .add_columns(ALIASES.c.alias, ALIASES.c.revision, ALIASES.c.version, ALIASES.c.seal.label("alias_seal"))
)
"""Statements made once: every prediction reads this, and making a statement costs more than running it."""


def need_served(connection: Connection, name: str, reference: str | int) -> ServedVersion:
    """What a prediction needs of a version. Raises UnknownClient, UnknownAlias, UnknownVersion."""
    query = _SERVED_BY_NUMBER if isinstance(reference, int) else _SERVED_BY_ALIAS
    held = isinstance(reference, str) or reference <= HIGHEST_NUMBER
    row = connection.execute(query, {"client": name, "reference": reference}).mappings().one_or_none() if held else None
    if row is None:  # the slow way finds out why
        client = need_client(connection, name)
        number = reference if isinstance(reference, int) else need_move(connection, client, reference).version
        return served_part(need_version(connection, client, number))
    if isinstance(reference, str):
        verify_alias({**row, "seal": row["alias_seal"]}, name)
    return served_of(row, name)


def any_version(connection: Connection, client: ClientKey, number: int) -> Version | None:
    """A version, deleted or not, or None."""
    if number > HIGHEST_NUMBER:  # not every database compares what it could not hold
        return None
    found = read_versions(connection, client, number=number, deleted_too=True)
    return found[0] if found else None


def read_versions(
    connection: Connection, client: ClientKey, *, number: int | None = None, deleted_too: bool = False
) -> tuple[Version, ...]:
    """The client's versions with their samples, oldest first; with `number` that one alone."""
    query = select(VERSIONS).where(VERSIONS.c.client_id == client.id)
    if number is not None:
        query = query.where(VERSIONS.c.number == number)
    samples = _samples(connection, query.with_only_columns(VERSIONS.c.id))
    rows = connection.execute(query.order_by(VERSIONS.c.number)).mappings()
    versions = tuple(version_of(row, client.name, samples.get(row["id"], [])) for row in rows)
    return versions if deleted_too else tuple(version for version in versions if version.deleted_at is None)


def _samples(connection: Connection, version_ids: Select[Any]) -> Mapping[int, list[SampleRef]]:
    query = select(SAMPLES).where(SAMPLES.c.version_id.in_(version_ids))
    found: defaultdict[int, list[SampleRef]] = defaultdict(list)
    for row in connection.execute(query.order_by(SAMPLES.c.version_id, SAMPLES.c.position)):
        found[row.version_id].append(SampleRef(row.digest, row.label, row.name))
    return found


def base_number(connection: Connection, client: ClientKey) -> int | None:
    """The version that an extension builds on: the live one, else the newest not deleted; None if there is none."""
    live = live_version(connection, client)
    return latest_number(connection, client) if live is None else live


def settings_of(connection: Connection, client: ClientKey) -> ClientSettings:
    """What the client chose, or the defaults. Raises StoreIncompatible, VersionCorrupt."""
    query = select(CLIENT_SETTINGS).where(CLIENT_SETTINGS.c.client_id == client.id)
    found = connection.execute(query).mappings().one_or_none()
    if found is None:
        return ClientSettings()
    verify(CLIENT_SETTINGS, client.name, found, f"the settings of client {client.name!r}")
    return ClientSettings.from_json(found["settings"])


def latest_number(connection: Connection, client: ClientKey) -> int | None:
    """The newest number not deleted, or None."""
    query = select(VERSIONS).where(VERSIONS.c.client_id == client.id).order_by(VERSIONS.c.number.desc())
    for row in connection.execute(query).mappings():
        verify_version(row, client.name)
        if row["deleted_at"] is None:
            return int(row["number"])
    return None


def recall(connection: Connection, client: ClientKey, idempotency: Idempotency) -> Publication | None:
    """What was published under the key, or None. Raises IdempotencyMismatch."""
    rule = and_(IDEMPOTENCY.c.client_id == client.id, IDEMPOTENCY.c.key == idempotency.key)
    known = connection.execute(select(IDEMPOTENCY).where(rule)).mappings().one_or_none()
    if known is None:
        return None
    verify(IDEMPOTENCY, client.name, known, f"the Idempotency-Key {idempotency.key!r} of client {client.name!r}")
    if known["body_digest"] != idempotency.body_digest:
        raise IdempotencyMismatch(
            f"the Idempotency-Key {idempotency.key!r} was used for another request of client {client.name!r}, which "
            f"made version {known['version']}; repeat that request unchanged, or use a new key"
        )
    moves = moves_to(connection, client, known["version"])
    return Publication(published(connection, client, known["version"]), moves, known["live"], replayed=True)


def published(connection: Connection, client: ClientKey, number: int) -> Version:
    """A version that was recorded, deleted since or not. Raises UnknownVersion."""
    version = any_version(connection, client, number)
    if version is None:
        raise UnknownVersion(f"client {client.name!r} has no version {number}")
    return version


def digests_needed(connection: Connection, client: ClientKey) -> frozenset[str]:
    """Every blob that a version not deleted needs. Raises VersionCorrupt: then it is not known what is needed."""
    versions = read_versions(connection, client, deleted_too=True)
    return frozenset().union(*(needed_by(version.draft) for version in versions if version.deleted_at is None))
