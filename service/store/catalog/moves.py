"""The catalog's queries about aliases and their log: rows in, domain values out. Writes nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Select, and_, select

from service.domain.version import LIVE, AliasMove
from service.errors import UnknownAlias, VersionCorrupt
from service.store.catalog.rows import ClientKey, move_of, verify_alias
from service.store.catalog.tables import ALIAS_MOVES, ALIASES, CLIENTS, VERSIONS

_LATEST: Final = and_(
    ALIASES.c.client_id == ALIAS_MOVES.c.client_id,
    ALIASES.c.alias == ALIAS_MOVES.c.alias,
    ALIASES.c.revision == ALIAS_MOVES.c.revision,
)


def current_moves(connection: Connection, client_ids: Sequence[int] | None) -> Mapping[int, dict[str, AliasMove]]:
    """The latest move of each alias, by the client's number; of all clients for None. Raises VersionCorrupt."""
    query = select(ALIASES, CLIENTS.c.name.label("client")).join(CLIENTS, CLIENTS.c.id == ALIASES.c.client_id)
    moves = _moves().join(ALIASES, _LATEST)
    if client_ids is not None:
        query = query.where(ALIASES.c.client_id.in_(client_ids))
        moves = moves.where(ALIAS_MOVES.c.client_id.in_(client_ids))
    latest = {(row["client_id"], row["alias"]): row for row in connection.execute(moves).mappings()}
    found: defaultdict[int, dict[str, AliasMove]] = defaultdict(dict)
    for row in connection.execute(query.order_by(ALIASES.c.alias)).mappings():
        verify_alias(row, row["client"])
        move = latest.get((row["client_id"], row["alias"]))
        if move is None or move["version"] != row["version"]:
            raise VersionCorrupt(
                f"alias {row['alias']!r} of client {row['client']!r} is at revision {row['revision']}, which its log "
                "does not have; restore a backup"
            )
        found[row["client_id"]][row["alias"]] = move_of(move)
    return found


def current_move(connection: Connection, client: ClientKey, alias: str) -> AliasMove | None:
    """The alias's latest move, or None if it was never set."""
    return current_moves(connection, [client.id]).get(client.id, {}).get(alias)


def need_move(connection: Connection, client: ClientKey, alias: str) -> AliasMove:
    """The alias's latest move. Raises UnknownAlias."""
    move = current_move(connection, client, alias)
    if move is None:
        raise UnknownAlias(f"client {client.name!r} has no alias {alias!r}; publish a version or set the alias first")
    return move


def live_version(connection: Connection, client: ClientKey) -> int | None:
    """Where the alias `live` points, or None."""
    move = current_move(connection, client, LIVE)
    return None if move is None else move.version


def moves_of(connection: Connection, client: ClientKey, *, at: datetime | None = None) -> tuple[AliasMove, ...]:
    """The client's alias moves, oldest first; with `at` only those made no later.

    All are read and held to their seals before any is left out, so that a changed bit leaves none out.
    """
    query = _moves().where(ALIAS_MOVES.c.client_id == client.id).order_by(ALIAS_MOVES.c.id)
    moves = tuple(move_of(row) for row in connection.execute(query).mappings())
    return moves if at is None else tuple(move for move in moves if move.moved_at <= at)


def moves_to(connection: Connection, client: ClientKey, number: int) -> tuple[AliasMove, ...]:
    """The moves that the publish of a version made, oldest first."""
    return tuple(move for move in moves_of(connection, client) if move.version == number and move.reason == "adapt")


def move_before(connection: Connection, client: ClientKey, current: AliasMove) -> AliasMove | None:
    """The move whose state a roll-back from `current` brings back, or None if there is nothing further back.

    A roll-back stands for the move that it restored, so that the next one goes on from there.
    """
    moves = {move.revision: move for move in moves_of(connection, client) if move.alias == current.alias}
    if len(moves) < current.revision:
        raise VersionCorrupt(f"the log of alias {current.alias!r} of {client.name!r} lacks rows; restore a backup")
    deleted = select(VERSIONS.c.number).where(VERSIONS.c.client_id == client.id, VERSIONS.c.deleted_at.is_not(None))
    gone = {current.version, *connection.execute(deleted).scalars()}
    revision = current.restores or current.revision
    while revision > 1:
        before = moves[revision - 1]
        if before.version not in gone:
            return moves[before.restores or before.revision]
        revision = before.restores or before.revision
    return None


def _moves() -> Select[Any]:
    return select(ALIAS_MOVES, CLIENTS.c.name.label("client")).join(CLIENTS, CLIENTS.c.id == ALIAS_MOVES.c.client_id)
