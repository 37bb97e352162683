"""What a prediction needs of a version: read at most once between two commits, for every prediction."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sqlalchemy import Connection, Text, and_, bindparam, select

from service.domain.version import CANDIDATE, LIVE, ServedVersion, unknown_score
from service.store.catalog.queries import (
    HIGHEST_NUMBER,
    get_alias,
    get_client,
    get_version,
    verify_alias,
    verify_version,
    version_values,
)
from service.store.catalog.tables import (
    ALIAS_MOVES,
    ALIASES,
    CHECKSUM_COLUMN,
    CLIENT_SETTINGS,
    CLIENTS,
    VERSIONS,
    RowValues,
    verify_row,
)

_CANDIDATE: Final = ALIASES.alias("candidate")
_SERVED: Final = (
    select(
        VERSIONS,
        CLIENTS.c.created_at.label("client_created_at"),
        CLIENTS.c.latest.label("client_latest"),
        CLIENTS.c.seal.label("client_checksum"),
        # a text that needs no parsing, so that a damaged row of settings stops no prediction
        CLIENT_SETTINGS.c.settings.cast(Text).contains('"log_predictions":true').label("logged"),
        _CANDIDATE.c.version.label("candidate"),
    )
    .join(CLIENTS, CLIENTS.c.id == VERSIONS.c.client_id)
    .outerjoin(CLIENT_SETTINGS, CLIENT_SETTINGS.c.client_id == CLIENTS.c.id)
    .outerjoin(_CANDIDATE, (_CANDIDATE.c.client_id == CLIENTS.c.id) & (_CANDIDATE.c.alias == CANDIDATE))
    .where(CLIENTS.c.name == bindparam("client"), VERSIONS.c.deleted_at.is_(None))
)
_ALIAS_TARGET: Final = and_(ALIASES.c.client_id == VERSIONS.c.client_id, ALIASES.c.version == VERSIONS.c.number)
_SERVED_BY_NUMBER: Final = _SERVED.where(VERSIONS.c.number == bindparam("reference"))
_SERVED_BY_ALIAS: Final = (
    _SERVED.join(ALIASES, _ALIAS_TARGET)
    .where(ALIASES.c.alias == bindparam("reference"))
    .add_columns(ALIASES.c.alias, ALIASES.c.revision, ALIASES.c.version, ALIASES.c.seal.label("alias_checksum"))
)
"""Built once: every prediction runs one of these, and building a statement costs more than running it."""


def get_served(connection: Connection, name: str, reference: str | int) -> ServedVersion:
    """Return what a prediction needs of a version, with one query where there is such a version.

    Raises:
        UnknownClient, UnknownAlias, UnknownVersion.
    """
    query = _SERVED_BY_NUMBER if isinstance(reference, int) else _SERVED_BY_ALIAS
    row = None
    if isinstance(reference, str) or reference <= HIGHEST_NUMBER:
        row = connection.execute(query, {"client": name, "reference": reference}).mappings().one_or_none()
    if row is None:  # find out what is missing
        client = get_client(connection, name)
        number = reference if isinstance(reference, int) else get_alias(connection, client, reference).version
        return _served(version_values(get_version(connection, client, number)), name)
    if isinstance(reference, str):
        verify_alias({**row, CHECKSUM_COLUMN: row["alias_checksum"]}, name)
    _verify_client(row, name)
    served = _served(row, name)
    if served.candidate is None or (reference == LIVE and not _candidate_ended(connection, row)):
        return served
    return replace(served, candidate=None)


def _verify_client(row: RowValues, name: str) -> None:
    """Raise VersionCorrupt if the row of the client is not what was written."""
    values = {"id": row["client_id"], "name": name, "created_at": row["client_created_at"]}
    values |= {"latest": row["client_latest"], CHECKSUM_COLUMN: row["client_checksum"]}
    verify_row(CLIENTS, "", values, f"client {name!r}")


def _candidate_ended(connection: Connection, row: RowValues) -> bool:
    """Whether the candidate is live, or was live at some time since the alias was set."""
    moves = select(ALIAS_MOVES.c.alias, ALIAS_MOVES.c.version).where(
        ALIAS_MOVES.c.client_id == row["client_id"], ALIAS_MOVES.c.alias.in_((LIVE, CANDIDATE))
    )
    candidate: int | None = row["candidate"]
    set_at = False
    for alias, version in connection.execute(moves.order_by(ALIAS_MOVES.c.id.desc())):
        if alias == CANDIDATE:
            set_at = True
        elif version == candidate or set_at:  # the first one before the alias was set was live then
            return bool(version == candidate)
    return False


def _served(row: RowValues, client: str) -> ServedVersion:
    verify_version(row, client)
    return ServedVersion(
        client,
        row["number"],
        tuple(row["classes"]),
        row["meta_model"],
        row["meta_model_digest"],
        row["weights_digest"],
        unknown_score(row["report"].get("unknown_threshold")),  # a familiarity is recorded
        row["report"].get("temperature"),
        row["report"].get("bit_depth"),
        None if (modalities := row["report"].get("modalities")) is None else tuple(modalities),
        row.get("client_created_at"),
        logged=bool(row.get("logged")),
        candidate=row.get("candidate"),
    )
