"""Where a version becomes live: the statements that record a version, move its aliases and keep its idempotency key.

`Catalog` calls them in one transaction for each client. A version's number is taken from its client's row in the
transaction that records the version, so numbers have no gaps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from service.domain.audit import current_actor
from service.domain.job import JobVersion, Origin
from service.domain.version import (
    CANDIDATE,
    LIVE,
    AliasMove,
    ExpectedRevision,
    Idempotency,
    Publication,
    Version,
    VersionDraft,
)
from service.errors import AliasConflict, NothingToRollBackTo, ParentSuperseded, client_deleted, client_exists
from service.store.catalog import audit, jobs, queries
from service.store.catalog.queries import MOVE_COLUMNS, ClientRow, version_values
from service.store.catalog.tables import (
    ALIAS_MOVES,
    ALIASES,
    CLIENTS,
    IDEMPOTENCY,
    SAMPLES,
    VERSIONS,
    with_checksum,
)


@dataclass(frozen=True, slots=True)
class Publishing:
    """Publishes versions and moves aliases, in one open transaction.

    Attributes:
        connection: of a writing transaction.
        now: the time that its rows carry, UTC.
    """

    connection: Connection
    now: datetime

    def publish(
        self,
        draft: VersionDraft,
        aliases: Sequence[str],
        *,
        guard: Callable[[], None] | None,
        idempotency: Idempotency | None,
        extends: bool,
        origin: Origin,
    ) -> Publication:
        """See `Catalog.publish`."""
        if origin.client_created_at is not None:
            self._require_client(draft.client, origin.client_created_at)
        job = None if origin.job is None else jobs.claim(self.connection, draft.client, origin.job)
        known = queries.find_client(self.connection, draft.client)
        client = known or self.get_or_create_client(draft.client)
        made = None if idempotency is None else queries.find_publication(self.connection, client, idempotency)
        if made is None:
            if origin.new_client and known is not None:
                raise client_exists(draft.client)
            made = self._record(client, draft, aliases, guard=guard, extends=extends)
            if idempotency is not None:
                self.insert_idempotency(client, idempotency, made.version.number, made.live)
        if origin.job is not None and job is not None:
            jobs.record_version(self.connection, job, origin.job, JobVersion(made.version.number, made.live))
        return made

    def _record(
        self,
        client: ClientRow,
        draft: VersionDraft,
        aliases: Sequence[str],
        *,
        guard: Callable[[], None] | None,
        extends: bool,
    ) -> Publication:
        if extends and queries.base_number(self.connection, client) != draft.parent:
            raise ParentSuperseded(
                f"another version of {draft.client!r} was published in the meantime; nothing was recorded; "
                "send the request again"
            )
        if guard is not None:
            guard()
        keep = draft.samples_kept and queries.client_settings(self.connection, client).retain_samples
        if not keep:  # what came with the images goes with them
            draft = replace(draft, samples=tuple(replace(sample, second=None) for sample in draft.samples))
        number = self.insert_version(client, replace(draft, samples_kept=keep))
        corrected = _corrections(draft)
        self.audit("version.correct" if corrected else "version.create", client.name, {"version": number, **corrected})
        moves = tuple(self.move_alias(client, alias, number, reason="adapt") for alias in aliases)
        live = queries.live_version(self.connection, client)
        return Publication(queries.get_recorded_version(self.connection, client, number), moves, live)

    def _require_client(self, name: str, created_at: datetime) -> None:
        """Raises ClientDeleted if the client that was created then does not exist any more."""
        found = queries.find_client(self.connection, name)
        if found is None or found.created_at != created_at:
            raise client_deleted(name)

    def set_alias(self, name: str, alias: str, version: int, *, expected_revision: ExpectedRevision) -> AliasMove:
        """See `Catalog.move_alias`."""
        client = queries.get_client(self.connection, name)
        queries.get_version(self.connection, client, version)
        _require_revision(queries.find_alias(self.connection, client, alias), alias, expected_revision)
        return self.move_alias(client, alias, version, reason="set")

    def roll_back(self, name: str, alias: str, *, expected_revision: ExpectedRevision) -> AliasMove:
        """See `Catalog.roll_back`."""
        client = queries.get_client(self.connection, name)
        current = queries.get_alias(self.connection, client, alias)
        _require_revision(current, alias, expected_revision)
        target = queries.rollback_target(self.connection, client, current)
        if target is None:
            raise NothingToRollBackTo(
                f"alias {alias!r} of client {name!r} points at version {current.version} and there is no earlier "
                "version; set the alias to a version, or adapt a new one"
            )
        return self.move_alias(client, alias, target.version, reason="rollback", restores=target.revision)

    def promote(self, name: str, *, expected_revision: ExpectedRevision) -> AliasMove:
        """See `Catalog.promote`."""
        client = queries.get_client(self.connection, name)
        candidate = queries.get_alias(self.connection, client, CANDIDATE)
        live = queries.find_alias(self.connection, client, LIVE)
        _require_revision(live, LIVE, expected_revision)
        if live is not None and live.version == candidate.version:
            return live
        return self.move_alias(client, LIVE, candidate.version, reason="promote")

    def get_or_create_client(self, name: str) -> ClientRow:
        """Return the client of that name; create it if there is none."""
        found = queries.find_client(self.connection, name)
        if found is None:
            row = with_checksum(CLIENTS, "", {"name": name, "created_at": self.now, "latest": 0})
            self.connection.execute(insert(CLIENTS).values(row))
            found = queries.get_client(self.connection, name)
        return found

    def insert_version(self, client: ClientRow, draft: VersionDraft) -> int:
        """Record the draft under the client's next number and return the number."""
        this = CLIENTS.c.id == client.id
        found = self.connection.execute(select(CLIENTS).where(this)).mappings().one()
        counted = with_checksum(CLIENTS, "", {**found, "latest": found["latest"] + 1})
        self.connection.execute(update(CLIENTS).where(this).values(latest=counted["latest"], seal=counted["seal"]))
        number = int(counted["latest"])
        row = {"client_id": client.id, **version_values(Version(number, self.now, draft))}
        version_id = self.connection.execute(insert(VERSIONS).values(row).returning(VERSIONS.c.id)).scalar_one()
        samples = [
            {"version_id": version_id, "position": position, **asdict(ref)}
            for position, ref in enumerate(draft.samples)
        ]
        if samples:
            self.connection.execute(insert(SAMPLES), samples)
        return number

    def move_alias(
        self, client: ClientRow, alias: str, version: int, *, reason: str, restores: int | None = None
    ) -> AliasMove:
        """Append a move to the log and point the alias at the version."""
        before, actor = queries.find_alias(self.connection, client, alias), current_actor()
        move = AliasMove(
            client=client.name,
            alias=alias,
            revision=1 if before is None else before.revision + 1,
            version=version,
            previous=None if before is None else before.version,
            moved_at=self.now,
            reason=reason,
            restores=restores,
            client_created_at=client.created_at,
            actor=actor.id,
            actor_name=actor.name,
        )
        logged = with_checksum(ALIAS_MOVES, client.name, {name: getattr(move, name) for name in MOVE_COLUMNS})
        self.connection.execute(insert(ALIAS_MOVES).values(client_id=client.id, **logged))
        target = {"alias": alias, "revision": move.revision, "version": version}
        this = (ALIASES.c.client_id == client.id) & (ALIASES.c.alias == alias)
        values = with_checksum(ALIASES, client.name, target)
        if self.connection.execute(update(ALIASES).where(this).values(values)).rowcount == 0:
            self.connection.execute(insert(ALIASES).values(client_id=client.id, **values))
        details = {"alias": alias, "version": version, "previous": move.previous, "reason": reason}
        self.audit("alias.move", client.name, details)
        return move

    def audit(self, action: str, client: str, details: Mapping[str, Any]) -> None:
        """Add an entry to the audit log."""
        audit.record(self.connection, self.now, action, client, details)

    def insert_idempotency(self, client: ClientRow, idempotency: Idempotency, number: int, live: int | None) -> None:
        """Record which version the request made, and which was live then."""
        values = {
            "key": idempotency.key,
            "body_digest": idempotency.body_digest,
            "version": number,
            "live": live,
            "created_at": self.now,
        }
        row = with_checksum(IDEMPOTENCY, client.name, values)
        self.connection.execute(insert(IDEMPOTENCY).values(client_id=client.id, **row))


def _corrections(draft: VersionDraft) -> dict[str, Any]:
    """Return the numbers of samples that were relabelled and removed; empty if the version corrects none."""
    notes = draft.report.get("gate", {}).get("details", ())
    return next((dict(note["values"]) for note in notes if note["code"] == "corrected"), {})


def _require_revision(current: AliasMove | None, alias: str, expected: ExpectedRevision) -> None:
    found: int | str = 0
    if current is not None:
        found = current.tag if isinstance(expected, str) else current.revision
    if expected is not None and expected != found:
        raise AliasConflict(
            f"alias {alias!r} is at revision {found}, not {expected} as expected; it was moved in the meantime; read "
            "it again"
        )
