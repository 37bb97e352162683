"""The catalog's statements that change rows, in a transaction that the caller has opened. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, delete, insert, select, update

from service.domain.client import ClientSettings
from service.domain.version import AliasMove, Idempotency, Version, VersionDraft
from service.store.catalog import reads
from service.store.catalog.moves import current_move
from service.store.catalog.row_checksums import sealed
from service.store.catalog.rows import ClientKey, alias_row, move_row, sample_rows, version_row
from service.store.catalog.tables import ALIAS_MOVES, ALIASES, CLIENT_SETTINGS, CLIENTS, IDEMPOTENCY, SAMPLES, VERSIONS


@dataclass(frozen=True, slots=True)
class Writes:
    """What one transaction changes.

    Attributes:
        connection: of a writing transaction.
        now: the time that its rows carry, UTC.
    """

    connection: Connection
    now: datetime

    def made_client(self, name: str) -> ClientKey:
        """The client of that name, made if there is none."""
        found = reads.find_client(self.connection, name)
        if found is None:
            row = sealed(CLIENTS, "", {"name": name, "created_at": self.now, "latest": 0})
            self.connection.execute(insert(CLIENTS).values(row))
            found = reads.need_client(self.connection, name)
        return found

    def record(self, client: ClientKey, draft: VersionDraft) -> int:
        """Take the client's next number and record the draft under it."""
        mine = CLIENTS.c.id == client.id
        found = self.connection.execute(select(CLIENTS).where(mine)).mappings().one()
        counted = sealed(CLIENTS, "", {**found, "latest": found["latest"] + 1})
        self.connection.execute(update(CLIENTS).where(mine).values(latest=counted["latest"], seal=counted["seal"]))
        number = int(counted["latest"])
        row = {"client_id": client.id, **version_row(Version(number, self.now, draft))}
        version_id = self.connection.execute(insert(VERSIONS).values(row).returning(VERSIONS.c.id)).scalar_one()
        if draft.samples:
            self.connection.execute(insert(SAMPLES), sample_rows(version_id, draft.samples))
        return number

    def move(
        self, client: ClientKey, alias: str, version: int, *, reason: str, restores: int | None = None
    ) -> AliasMove:
        """Append a move to the log and point the alias there."""
        before = current_move(self.connection, client, alias)
        move = AliasMove(
            client=client.name,
            alias=alias,
            revision=1 if before is None else before.revision + 1,
            version=version,
            previous=None if before is None else before.version,
            moved_at=self.now,
            reason=reason,
            restores=restores,
        )
        self.connection.execute(insert(ALIAS_MOVES).values(client_id=client.id, **move_row(move)))
        target = alias_row(move)
        mine = (ALIASES.c.client_id == client.id) & (ALIASES.c.alias == alias)
        changed = self.connection.execute(update(ALIASES).where(mine).values(target))
        if changed.rowcount == 0:
            self.connection.execute(insert(ALIASES).values(client_id=client.id, **target))
        return move

    def remember(self, client: ClientKey, idempotency: Idempotency, number: int, live: int | None) -> None:
        """Record which version that request made, and what was live then."""
        said = {
            "key": idempotency.key,
            "body_digest": idempotency.body_digest,
            "version": number,
            "live": live,
            "created_at": self.now,
        }
        row = sealed(IDEMPOTENCY, client.name, said)
        self.connection.execute(insert(IDEMPOTENCY).values(client_id=client.id, **row))

    def let_go(self, client: ClientKey, version: Version) -> None:
        """Mark a version deleted and drop its samples; its number stays taken."""
        this = self._this(client, version)
        mine = SAMPLES.c.version_id == select(VERSIONS.c.id).where(this).scalar_subquery()
        self.connection.execute(delete(SAMPLES).where(mine))
        gone = replace(version, draft=replace(version.draft, samples=()), deleted_at=self.now)
        self.connection.execute(update(VERSIONS).where(this).values(version_row(gone)))

    def update_settings(self, client: ClientKey, settings: ClientSettings) -> None:
        """Put the client's settings in place of what it had chosen before."""
        values = sealed(CLIENT_SETTINGS, client.name, {"settings": settings.to_json(), "changed_at": self.now})
        mine = CLIENT_SETTINGS.c.client_id == client.id
        changed = self.connection.execute(update(CLIENT_SETTINGS).where(mine).values(values))
        if changed.rowcount == 0:
            self.connection.execute(insert(CLIENT_SETTINGS).values(client_id=client.id, **values))

    def forget_samples(self, client: ClientKey) -> None:
        """Say of every version that its samples are not kept any more."""
        for version in reads.read_versions(self.connection, client, deleted_too=True):
            bare = replace(version, draft=replace(version.draft, samples_kept=False))
            self.connection.execute(update(VERSIONS).where(self._this(client, version)).values(version_row(bare)))

    def _this(self, client: ClientKey, version: Version) -> ColumnElement[bool]:
        return and_(VERSIONS.c.client_id == client.id, VERSIONS.c.number == version.number)
