"""The catalog's queries: rows in, domain values out, on a connection that the caller has opened. Writes nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Select, and_, bindparam, func, select

from service.choices import ClientSettings
from service.domain import (
    LIVE,
    AliasMove,
    ClientSummary,
    Idempotency,
    Publication,
    SampleRef,
    ServedVersion,
    Version,
)
from service.errors import IdempotencyMismatch, UnknownAlias, UnknownClient, UnknownVersion
from service.store.catalog_rows import move_of, served_part, version_of
from service.store.catalog_tables import (
    ALIAS_MOVES,
    ALIASES,
    CLIENT_SETTINGS,
    CLIENTS,
    IDEMPOTENCY,
    SAMPLES,
    VERSIONS,
)

HIGHEST_NUMBER: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ClientKey:
    """A client's name and the number its rows carry."""

    id: int
    name: str


def find_client(connection: Connection, name: str) -> ClientKey | None:
    """The client's key, or None."""
    found = connection.execute(select(CLIENTS.c.id).where(CLIENTS.c.name == name)).scalar_one_or_none()
    return None if found is None else ClientKey(found, name)


def need_client(connection: Connection, name: str) -> ClientKey:
    """The client's key. Raises UnknownClient."""
    client = find_client(connection, name)
    if client is None:
        raise UnknownClient(f"no client is called {name!r}; the first /adapt with that name makes it")
    return client


def summaries(connection: Connection, name: str | None = None) -> tuple[ClientSummary, ...]:
    """All clients by name, or the one of that name, if there is one."""
    kept = and_(VERSIONS.c.client_id == CLIENTS.c.id, VERSIONS.c.deleted_at.is_(None))
    query = (
        select(CLIENTS.c.id, CLIENTS.c.name, CLIENTS.c.created_at, CLIENTS.c.latest, func.count(VERSIONS.c.id))
        .outerjoin(VERSIONS, kept)
        .group_by(CLIENTS.c.id, CLIENTS.c.name, CLIENTS.c.created_at, CLIENTS.c.latest)
        .order_by(CLIENTS.c.name)
    )
    if name is not None:
        query = query.where(CLIENTS.c.name == name)
    rows = connection.execute(query).all()
    moves = _current_moves(connection, None if name is None else [row[0] for row in rows])
    return tuple(ClientSummary(row[1], row[2], row[4], row[3], moves.get(row[0], {})) for row in rows)


def _current_moves(connection: Connection, client_ids: Sequence[int] | None) -> Mapping[int, dict[str, AliasMove]]:
    query = _moves().join(
        ALIASES,
        and_(
            ALIASES.c.client_id == ALIAS_MOVES.c.client_id,
            ALIASES.c.alias == ALIAS_MOVES.c.alias,
            ALIASES.c.revision == ALIAS_MOVES.c.revision,
        ),
    )
    if client_ids is not None:
        query = query.where(ALIAS_MOVES.c.client_id.in_(client_ids))
    found: defaultdict[int, dict[str, AliasMove]] = defaultdict(dict)
    for row in connection.execute(query.order_by(ALIAS_MOVES.c.alias)):
        found[row.client_id][row.alias] = move_of(row)
    return found


def need_version(connection: Connection, client: ClientKey, number: int) -> Version:
    """A version not deleted. Raises UnknownVersion."""
    version = any_version(connection, client, number)
    if version is None:
        raise UnknownVersion(f"client {client.name!r} has no version {number}; its versions are listed under it")
    if version.deleted_at is not None:
        raise UnknownVersion(f"version {number} of client {client.name!r} was deleted; its number is not used again")
    return version


_SERVED: Final = (
    select(
        VERSIONS.c.number,
        VERSIONS.c.classes,
        VERSIONS.c.meta_model,
        VERSIONS.c.meta_model_digest,
        VERSIONS.c.weights_digest,
        VERSIONS.c.report["unknown_threshold"].as_float().label("unknown_threshold"),
        VERSIONS.c.report["temperature"].as_float().label("temperature"),
    )
    .join(CLIENTS, CLIENTS.c.id == VERSIONS.c.client_id)
    .where(CLIENTS.c.name == bindparam("client"), VERSIONS.c.deleted_at.is_(None))
)
_POINTS: Final = and_(ALIASES.c.client_id == VERSIONS.c.client_id, ALIASES.c.version == VERSIONS.c.number)
_SERVED_BY_NUMBER: Final = _SERVED.where(VERSIONS.c.number == bindparam("reference"))
_SERVED_BY_ALIAS: Final = _SERVED.join(ALIASES, _POINTS).where(ALIASES.c.alias == bindparam("reference"))
"""Statements made once: every prediction reads this, and making a statement costs more than running it."""


def need_served(connection: Connection, name: str, reference: str | int) -> ServedVersion:
    """What a prediction needs of a version. Raises UnknownClient, UnknownAlias, UnknownVersion."""
    query = _SERVED_BY_NUMBER if isinstance(reference, int) else _SERVED_BY_ALIAS
    held = isinstance(reference, str) or reference <= HIGHEST_NUMBER
    row = connection.execute(query, {"client": name, "reference": reference}).one_or_none() if held else None
    if row is None:  # the slow way finds out why
        client = need_client(connection, name)
        number = reference if isinstance(reference, int) else need_move(connection, client, reference).version
        return served_part(need_version(connection, client, number))
    return ServedVersion(
        name,
        row.number,
        tuple(row.classes),
        row.meta_model,
        row.meta_model_digest,
        row.weights_digest,
        row.unknown_threshold,
        row.temperature,
    )


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
    if not deleted_too:
        query = query.where(VERSIONS.c.deleted_at.is_(None))
    samples = _samples(connection, query.with_only_columns(VERSIONS.c.id))
    rows = connection.execute(query.order_by(VERSIONS.c.number))
    return tuple(version_of(row, client.name, samples.get(row.id, [])) for row in rows)


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
    """What the client chose, or the defaults. Raises StoreIncompatible."""
    query = select(CLIENT_SETTINGS.c.settings).where(CLIENT_SETTINGS.c.client_id == client.id)
    found = connection.execute(query).scalar_one_or_none()
    return ClientSettings() if found is None else ClientSettings.from_json(found)


def latest_number(connection: Connection, client: ClientKey) -> int | None:
    """The newest number not deleted, or None."""
    kept = and_(VERSIONS.c.client_id == client.id, VERSIONS.c.deleted_at.is_(None))
    number: int | None = connection.execute(select(func.max(VERSIONS.c.number)).where(kept)).scalar_one()
    return number


def moves_of(connection: Connection, client: ClientKey, *, at: datetime | None = None) -> tuple[AliasMove, ...]:
    """The client's alias moves, oldest first; with `at` only those made no later."""
    query = _moves().where(ALIAS_MOVES.c.client_id == client.id)
    if at is not None:
        query = query.where(ALIAS_MOVES.c.moved_at <= at)
    return tuple(move_of(row) for row in connection.execute(query.order_by(ALIAS_MOVES.c.id)))


def current_move(connection: Connection, client: ClientKey, alias: str) -> AliasMove | None:
    """The alias's latest move, or None if it was never set."""
    return _current_moves(connection, [client.id]).get(client.id, {}).get(alias)


def need_move(connection: Connection, client: ClientKey, alias: str) -> AliasMove:
    """The alias's latest move. Raises UnknownAlias."""
    move = current_move(connection, client, alias)
    if move is None:
        raise UnknownAlias(f"client {client.name!r} has no alias {alias!r}; publish a version or set the alias first")
    return move


def move_before(connection: Connection, client: ClientKey, current: AliasMove) -> AliasMove | None:
    """The move whose state a roll-back from `current` brings back, or None if there is nothing further back.

    A roll-back stands for the move that it restored, so that the next one goes on from there.
    """
    moves = {move.revision: move for move in moves_of(connection, client) if move.alias == current.alias}
    deleted = select(VERSIONS.c.number).where(VERSIONS.c.client_id == client.id, VERSIONS.c.deleted_at.is_not(None))
    gone = {current.version, *connection.execute(deleted).scalars()}
    revision = current.restores or current.revision
    while revision > 1:
        before = moves[revision - 1]
        if before.version not in gone:
            return moves[before.restores or before.revision]
        revision = before.restores or before.revision
    return None


def recall(connection: Connection, client: ClientKey, idempotency: Idempotency) -> Publication | None:
    """What was published under the key, or None. Raises IdempotencyMismatch."""
    rule = and_(IDEMPOTENCY.c.client_id == client.id, IDEMPOTENCY.c.key == idempotency.key)
    known = connection.execute(select(IDEMPOTENCY).where(rule)).one_or_none()
    if known is None:
        return None
    if known.body_digest != idempotency.body_digest:
        raise IdempotencyMismatch(
            f"the Idempotency-Key {idempotency.key!r} was used for another request of client {client.name!r}, which "
            f"made version {known.version}; repeat that request unchanged, or use a new key"
        )
    return publication(connection, client, known.version, live=known.live, replayed=True)


def publication(
    connection: Connection, client: ClientKey, number: int, *, live: int | None, replayed: bool = False
) -> Publication:
    """What the publish of that version did, as its rows tell it."""
    version = any_version(connection, client, number)
    if version is None:
        raise UnknownVersion(f"client {client.name!r} has no version {number}")
    made = and_(ALIAS_MOVES.c.client_id == client.id, ALIAS_MOVES.c.version == number, ALIAS_MOVES.c.reason == "adapt")
    moves = tuple(move_of(row) for row in connection.execute(_moves().where(made).order_by(ALIAS_MOVES.c.id)))
    return Publication(version, moves, live, replayed)


def live_version(connection: Connection, client: ClientKey) -> int | None:
    """Where the alias `live` points, or None."""
    move = current_move(connection, client, LIVE)
    return None if move is None else move.version


def digests_needed(connection: Connection, client: ClientKey) -> frozenset[str]:
    """Every blob that a version not deleted needs."""
    kept = and_(VERSIONS.c.client_id == client.id, VERSIONS.c.deleted_at.is_(None))
    weights = connection.execute(select(VERSIONS.c.weights_digest).where(kept)).scalars()
    samples = select(SAMPLES.c.digest).distinct().join(VERSIONS, VERSIONS.c.id == SAMPLES.c.version_id)
    stored = samples.where(kept, VERSIONS.c.samples_kept)
    return frozenset(weights) | frozenset(connection.execute(stored).scalars())


def _moves() -> Select[Any]:
    return select(ALIAS_MOVES, CLIENTS.c.name.label("client")).join(CLIENTS, CLIENTS.c.id == ALIAS_MOVES.c.client_id)
