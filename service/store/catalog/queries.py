"""The catalog's queries: rows in, domain values out. Every row is compared with its checksum.

The functions read on a connection that the caller has opened, and raise VersionCorrupt for a damaged row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Select, and_, func, or_, select

from service.domain.client import ClientSettings, ClientSummary
from service.domain.version import (
    LIVE,
    AliasMove,
    Idempotency,
    Lineage,
    Publication,
    SampleRef,
    Version,
    VersionDraft,
    VersionSummary,
)
from service.errors import IdempotencyMismatch, UnknownAlias, UnknownClient, UnknownVersion, VersionCorrupt
from service.store.catalog.tables import (
    ALIAS_MOVES,
    ALIASES,
    CLIENT_SETTINGS,
    CLIENTS,
    IDEMPOTENCY,
    SAMPLES,
    VERSIONS,
    RowValues,
    samples_checksum,
    verify_row,
    with_checksum,
)

HIGHEST_NUMBER: Final = 2**31 - 1
"""The highest version number that the databases' integer columns hold."""

_DIGESTS_PER_QUERY: Final = 500

MOVE_COLUMNS: Final = (
    *("alias", "revision", "version", "previous", "moved_at", "reason", "restores"),
    *("actor", "actor_name"),
)


@dataclass(frozen=True, slots=True)
class ClientRow:
    """A client's name, when it was created, and its row id, which a later client may have again."""

    id: int
    name: str
    created_at: datetime


def find_client(connection: Connection, name: str) -> ClientRow | None:
    """Return the client of that name, or None."""
    found = connection.execute(select(CLIENTS).where(CLIENTS.c.name == name)).mappings().one_or_none()
    if found is None:
        return None
    verify_row(CLIENTS, "", found, f"client {name!r}")
    return ClientRow(found["id"], name, found["created_at"])


def get_client(connection: Connection, name: str) -> ClientRow:
    """Return the client of that name. Raises UnknownClient."""
    client = find_client(connection, name)
    if client is None:
        raise UnknownClient(name)
    return client


def client_summaries(
    connection: Connection, names: Collection[str] | None = None, *, after: str = "", limit: int | None = None
) -> tuple[ClientSummary, ...]:
    """Return clients by name: all, or only those of the names; those that follow `after`, and at most `limit`."""
    not_deleted = and_(VERSIONS.c.client_id == CLIENTS.c.id, VERSIONS.c.deleted_at.is_(None))
    query = select(CLIENTS, func.count(VERSIONS.c.id).label("versions")).outerjoin(VERSIONS, not_deleted)
    if names is not None:
        query = query.where(CLIENTS.c.name.in_(names))
    query = query.where(CLIENTS.c.name > after).group_by(*CLIENTS.c).order_by(CLIENTS.c.name).limit(limit)
    rows = connection.execute(query).mappings().all()
    for row in rows:
        verify_row(CLIENTS, "", row, f"client {row['name']!r}")
    everything = names is None and not after and limit is None
    moves = current_moves(connection, None if everything else [row["id"] for row in rows])
    return tuple(
        ClientSummary(row["name"], row["created_at"], row["versions"], row["latest"], moves.get(row["id"], {}))
        for row in rows
    )


def client_names(connection: Connection) -> tuple[str, ...]:
    """Return the names of all clients without verifying their rows."""
    return tuple(connection.execute(select(CLIENTS.c.name).order_by(CLIENTS.c.name)).scalars())


def client_settings(connection: Connection, client: ClientRow) -> ClientSettings:
    """Return the client's settings, or the defaults. Raises StoreIncompatible."""
    query = select(CLIENT_SETTINGS).where(CLIENT_SETTINGS.c.client_id == client.id)
    found = connection.execute(query).mappings().one_or_none()
    if found is None:
        return ClientSettings()
    verify_row(CLIENT_SETTINGS, client.name, found, f"the settings of client {client.name!r}")
    return ClientSettings.from_json(found["settings"])


def get_version(connection: Connection, client: ClientRow, number: int) -> Version:
    """Return a version that is not deleted. Raises UnknownVersion."""
    version = get_recorded_version(connection, client, number)
    if version.deleted_at is not None:
        raise UnknownVersion(f"version {number} of client {client.name!r} was deleted; its number is not used again")
    return version


def get_recorded_version(connection: Connection, client: ClientRow, number: int) -> Version:
    """Return a version, deleted or not. Raises UnknownVersion."""
    if number <= HIGHEST_NUMBER:  # PostgreSQL rejects a comparison with a larger number
        found = read_versions(connection, client, number=number, include_deleted=True)
        if found:
            return found[0]
    raise UnknownVersion(
        f"client {client.name!r} has no version {number}; list its versions with GET /clients/{client.name}/versions"
    )


def read_versions(
    connection: Connection, client: ClientRow, *, number: int | None = None, include_deleted: bool = False
) -> tuple[Version, ...]:
    """Return the client's versions with their samples, oldest first; with `number` only that one."""
    query = select(VERSIONS).where(VERSIONS.c.client_id == client.id)
    if number is not None:
        query = query.where(VERSIONS.c.number == number)
    samples = read_samples(connection, query.with_only_columns(VERSIONS.c.id))
    rows = connection.execute(query.order_by(VERSIONS.c.number)).mappings()
    versions = tuple(_version(row, client.name, samples.get(row["id"], [])) for row in rows)
    return versions if include_deleted else tuple(version for version in versions if version.deleted_at is None)


def version_summaries(
    connection: Connection, client: ClientRow, *, after: int, limit: int
) -> tuple[VersionSummary, ...]:
    """Return at most `limit` versions that are not deleted and have higher numbers than `after`, oldest first.

    Their samples are counted, and not read.
    """
    count = select(func.count()).where(SAMPLES.c.version_id == VERSIONS.c.id).scalar_subquery()
    query = select(VERSIONS, count.label("samples")).where(
        VERSIONS.c.client_id == client.id, VERSIONS.c.number > after, VERSIONS.c.deleted_at.is_(None)
    )
    rows = connection.execute(query.order_by(VERSIONS.c.number).limit(limit)).mappings()
    return tuple(_summary(row, client.name) for row in rows)


def version_numbers(connection: Connection, client: ClientRow) -> tuple[int, ...]:
    """Return the numbers of the versions that are not deleted, oldest first, without verifying their rows."""
    query = select(VERSIONS.c.number).where(VERSIONS.c.client_id == client.id, VERSIONS.c.deleted_at.is_(None))
    return tuple(connection.execute(query.order_by(VERSIONS.c.number)).scalars())


def read_samples(connection: Connection, version_ids: Select[Any] | None = None) -> Mapping[int, list[SampleRef]]:
    """Return samples in order by the row id of their version, of all versions or of those selected."""
    query = select(SAMPLES)
    if version_ids is not None:
        query = query.where(SAMPLES.c.version_id.in_(version_ids))
    found: defaultdict[int, list[SampleRef]] = defaultdict(list)
    for row in connection.execute(query.order_by(SAMPLES.c.version_id, SAMPLES.c.position)):
        second = tuple(row.second) if isinstance(row.second, list) else row.second
        found[row.version_id].append(SampleRef(row.digest, row.label, row.name, row.part, second))
    return found


def lineage(connection: Connection, client: ClientRow) -> Lineage:
    """Return the versions of a client that matter to a new one."""
    numbers = live_version(connection, client), base_number(connection, client), latest_number(connection, client)
    versions = {number: get_version(connection, client, number) for number in set(numbers) if number is not None}
    live, base, newest = (None if number is None else versions[number] for number in numbers)
    return Lineage(live, base, newest, client.created_at)


def base_number(connection: Connection, client: ClientRow) -> int | None:
    """Return the number of `Lineage.base`, or None."""
    live = live_version(connection, client)
    if live is None:
        return latest_number(connection, client)
    newer_moves = (ALIAS_MOVES.c.client_id == client.id, ALIAS_MOVES.c.alias == LIVE, ALIAS_MOVES.c.version > live)
    rolled_back = set(connection.execute(select(ALIAS_MOVES.c.version).where(*newer_moves)).scalars())
    newer = select(VERSIONS).where(VERSIONS.c.client_id == client.id, VERSIONS.c.number > live)
    base, extending = live, {live}
    for row in connection.execute(newer.order_by(VERSIONS.c.number)).mappings():
        verify_version(row, client.name)
        if row["parent"] in extending and row["number"] not in rolled_back:
            extending.add(row["number"])
            base = row["number"] if row["deleted_at"] is None else base
    return base


def latest_number(connection: Connection, client: ClientRow) -> int | None:
    """Return the newest number that is not deleted, or None."""
    query = select(VERSIONS).where(VERSIONS.c.client_id == client.id).order_by(VERSIONS.c.number.desc())
    for row in connection.execute(query).mappings():
        verify_version(row, client.name)
        if row["deleted_at"] is None:
            return int(row["number"])
    return None


def required_blobs(connection: Connection, client: ClientRow) -> frozenset[str]:
    """Return the digests of every blob that a version needs. Reads deleted versions too, to verify all rows."""
    versions = read_versions(connection, client, include_deleted=True)
    return frozenset().union(*(version.draft.required_blobs for version in versions if version.deleted_at is None))


def required_among(connection: Connection, client: ClientRow, digests: Collection[str]) -> frozenset[str]:
    """Return those of the digests that a version needs. Unlike `required_blobs`, it verifies no row and is fast."""
    kept = select(VERSIONS.c.id).where(VERSIONS.c.client_id == client.id, VERSIONS.c.deleted_at.is_(None))
    found: set[str] = set()
    listed = sorted(digests)
    for start in range(0, len(listed), _DIGESTS_PER_QUERY):
        part = listed[start : start + _DIGESTS_PER_QUERY]
        weights = kept.with_only_columns(VERSIONS.c.weights_digest).where(VERSIONS.c.weights_digest.in_(part))
        with_samples = kept.where(VERSIONS.c.samples_kept.is_(True))
        samples = select(SAMPLES.c.digest).where(SAMPLES.c.version_id.in_(with_samples), SAMPLES.c.digest.in_(part))
        found.update(connection.execute(weights.distinct()).scalars())
        found.update(connection.execute(samples.distinct()).scalars())
    return frozenset(found)


def first_versions(connection: Connection, client: ClientRow, digest: str | None = None) -> Mapping[str, int]:
    """Return stored sample -> the first version that has it; with `digest` only that one. It verifies no row."""
    joined = select(SAMPLES.c.digest, func.min(VERSIONS.c.number)).join(VERSIONS, VERSIONS.c.id == SAMPLES.c.version_id)
    query = joined.where(
        VERSIONS.c.client_id == client.id, VERSIONS.c.deleted_at.is_(None), VERSIONS.c.samples_kept.is_(True)
    )
    if digest is not None:
        query = query.where(SAMPLES.c.digest == digest)
    return {row[0]: row[1] for row in connection.execute(query.group_by(SAMPLES.c.digest))}


def find_publication(connection: Connection, client: ClientRow, idempotency: Idempotency) -> Publication | None:
    """Return what was published under the idempotency key, or None. Raises IdempotencyMismatch."""
    rule = and_(IDEMPOTENCY.c.client_id == client.id, IDEMPOTENCY.c.key == idempotency.key)
    known = connection.execute(select(IDEMPOTENCY).where(rule)).mappings().one_or_none()
    if known is None:
        return None
    verify_row(IDEMPOTENCY, client.name, known, f"the Idempotency-Key {idempotency.key!r} of client {client.name!r}")
    number = known["version"]
    if known["body_digest"] != idempotency.body_digest:
        raise IdempotencyMismatch(
            f"the Idempotency-Key {idempotency.key!r} was used for another request of client {client.name!r}, which "
            f"made version {number}; repeat that request unchanged, or use a new key"
        )
    return recorded_publication(connection, client, number, known["live"])


def recorded_publication(connection: Connection, client: ClientRow, number: int, live: int | None) -> Publication:
    """Return how a version was published, deleted or not. `live` is what was live afterwards."""
    log = alias_log(connection, client)
    moves = tuple(move for move in log if move.version == number and move.reason == "adapt")
    return Publication(get_recorded_version(connection, client, number), moves, live, replayed=True)


_LATEST_MOVE: Final = and_(
    ALIASES.c.client_id == ALIAS_MOVES.c.client_id,
    ALIASES.c.alias == ALIAS_MOVES.c.alias,
    ALIASES.c.revision == ALIAS_MOVES.c.revision,
)


def current_moves(connection: Connection, client_ids: Sequence[int] | None) -> Mapping[int, dict[str, AliasMove]]:
    """Return the latest move of each alias, by the row id of its client; for None, of all clients."""
    query = select(ALIASES, CLIENTS.c.name.label("client")).join(CLIENTS, CLIENTS.c.id == ALIASES.c.client_id)
    moves = _select_moves().join(ALIASES, _LATEST_MOVE)
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
                f"alias {row['alias']!r} of client {row['client']!r} is at revision {row['revision']}, which is "
                "missing from its log; restore a backup"
            )
        found[row["client_id"]][row["alias"]] = _move(move)
    return found


def find_alias(connection: Connection, client: ClientRow, alias: str) -> AliasMove | None:
    """Return the alias's latest move, or None if it was never set."""
    return current_moves(connection, [client.id]).get(client.id, {}).get(alias)


def get_alias(connection: Connection, client: ClientRow, alias: str) -> AliasMove:
    """Return the alias's latest move. Raises UnknownAlias."""
    move = find_alias(connection, client, alias)
    if move is None:
        raise UnknownAlias(f"client {client.name!r} has no alias {alias!r}; publish a version or set the alias first")
    return move


def live_version(connection: Connection, client: ClientRow) -> int | None:
    """Return the version that the alias `live` points at, or None."""
    move = find_alias(connection, client, LIVE)
    return None if move is None else move.version


def alias_log(
    connection: Connection, client: ClientRow, *, at: datetime | None = None, after: int = 0, limit: int | None = None
) -> tuple[AliasMove, ...]:
    """Return the client's alias moves, oldest first, without the first `after`, and at most `limit`.

    With `at` only those made no later. All rows are then verified before any is filtered, so that a changed time cannot
    hide one.
    """
    query = _select_moves().where(ALIAS_MOVES.c.client_id == client.id).order_by(ALIAS_MOVES.c.id)
    if at is None:
        return tuple(map(_move, connection.execute(query.offset(after).limit(limit)).mappings()))
    moves = [move for move in map(_move, connection.execute(query).mappings()) if move.moved_at <= at]
    return tuple(moves[after:] if limit is None else moves[after : after + limit])


def rollback_target(connection: Connection, client: ClientRow, current: AliasMove) -> AliasMove | None:
    """Return the move whose version a rollback from `current` restores, or None if there is no earlier version.

    A rollback counts as the move that it restored, so that repeated rollbacks go further back.
    """
    log = (ALIAS_MOVES.c.client_id == client.id, ALIAS_MOVES.c.alias == current.alias)
    if connection.execute(select(func.count()).where(*log)).scalar_one() < current.revision:
        raise VersionCorrupt(f"the log of alias {current.alias!r} of {client.name!r} lacks rows; restore a backup")
    deleted = select(VERSIONS.c.number).where(VERSIONS.c.client_id == client.id, VERSIONS.c.deleted_at.is_not(None))
    kept = and_(ALIAS_MOVES.c.version != current.version, ALIAS_MOVES.c.version.not_in(deleted))
    moves = _select_moves().where(*log)
    candidates = moves.where(or_(kept, ALIAS_MOVES.c.restores.is_not(None))).order_by(ALIAS_MOVES.c.revision.desc())
    skipped = {current.version, *connection.execute(deleted).scalars()}
    revision = current.restores or current.revision
    while True:
        below = candidates.where(ALIAS_MOVES.c.revision < revision).limit(1)
        before = next(map(_move, connection.execute(below).mappings()), None)
        if before is None:
            return None
        revision = before.restores or before.revision
        if before.version not in skipped:
            return _move(connection.execute(moves.where(ALIAS_MOVES.c.revision == revision)).mappings().one())


def _select_moves() -> Select[Any]:
    owner = CLIENTS.c.name.label("client"), CLIENTS.c.created_at.label("client_created_at")
    return select(ALIAS_MOVES, *owner).join(CLIENTS, CLIENTS.c.id == ALIAS_MOVES.c.client_id)


def version_values(version: Version) -> dict[str, Any]:
    """Return the values of a version's row, with its checksum."""
    draft = version.draft
    values = {
        "number": version.number,
        "created_at": version.created_at,
        "deleted_at": version.deleted_at,
        "parent": draft.parent,
        "classes": list(draft.classes),
        "meta_model": draft.meta_model,
        "meta_model_digest": draft.meta_model_digest,
        "recipe": dict(draft.recipe),
        "seed": draft.seed,
        "weights_digest": draft.weights_digest,
        "weights_bytes": draft.weights_bytes,
        "device": draft.device,
        "batched_with": draft.batched_with,
        "report": dict(draft.report),
        "samples_kept": draft.samples_kept,
        "samples_seal": samples_checksum(draft.samples),
    }
    return with_checksum(VERSIONS, draft.client, values)


def _version(row: RowValues, client: str, samples: Sequence[SampleRef]) -> Version:
    verify_version(row, client)
    if row["samples_seal"] != samples_checksum(samples):
        raise VersionCorrupt(
            f"the rows of the samples of version {row['number']} of client {client!r} are damaged; restore a backup"
        )
    draft = VersionDraft(
        client=client,
        parent=row["parent"],
        classes=tuple(row["classes"]),
        samples=tuple(samples),
        meta_model=row["meta_model"],
        meta_model_digest=row["meta_model_digest"],
        recipe=row["recipe"],
        seed=row["seed"],
        weights_digest=row["weights_digest"],
        weights_bytes=row["weights_bytes"],
        device=row["device"],
        batched_with=row["batched_with"],
        report=row["report"],
        samples_kept=row["samples_kept"],
    )
    return Version(row["number"], row["created_at"], draft, row["deleted_at"])


def _summary(row: RowValues, client: str) -> VersionSummary:
    verify_version(row, client)
    return VersionSummary(
        client=client,
        number=row["number"],
        created_at=row["created_at"],
        parent=row["parent"],
        classes=tuple(row["classes"]),
        samples=row["samples"],
        meta_model=row["meta_model"],
        weights_digest=row["weights_digest"],
        weights_bytes=row["weights_bytes"],
        report=row["report"],
    )


def _move(row: RowValues) -> AliasMove:
    client, alias = row["client"], row["alias"]
    verify_row(ALIAS_MOVES, client, row, f"move {row['revision']} of alias {alias!r} of client {client!r}")
    values = {name: row[name] for name in MOVE_COLUMNS}
    return AliasMove(client, **values, client_created_at=row["client_created_at"])


def verify_version(row: RowValues, client: str) -> None:
    """Raises VersionCorrupt if the row of a version is damaged."""
    verify_row(VERSIONS, client, row, f"version {row['number']} of client {client!r}")


def verify_alias(row: RowValues, client: str) -> None:
    """Raises VersionCorrupt if the row of an alias is damaged."""
    verify_row(ALIASES, client, row, f"alias {row['alias']!r} of client {client!r}")
