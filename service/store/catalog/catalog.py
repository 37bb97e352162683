"""The catalog on any SQL database that implements `Database`: which statements run in which transaction.

A version becomes live in `SqlCatalog.publish` or `SqlCatalog.move_alias`. A version's number is taken from its client's
row in the transaction that records the version, so numbers have no gaps. Nothing is cached, so a read is never older
than an acknowledged write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, select, update

from models.errors import AnoleError
from service.domain.client import ClientSettings, ClientSummary
from service.domain.version import AliasMove, Idempotency, Publication, ServedVersion, Version, VersionDraft
from service.errors import (
    AliasConflict,
    NothingToRollBackTo,
    ParentSuperseded,
    UnknownClient,
    VersionCorrupt,
    VersionInUse,
)
from service.store.catalog import copy as catalog_copy
from service.store.catalog import queries
from service.store.catalog.database import Database
from service.store.catalog.integrity import row_problems
from service.store.catalog.queries import MOVE_COLUMNS, ClientRow, version_values
from service.store.catalog.tables import (
    ALIAS_MOVES,
    ALIASES,
    CLIENT_SETTINGS,
    CLIENTS,
    IDEMPOTENCY,
    SAMPLES,
    VERSIONS,
    with_checksum,
)
from service.store.ports import Catalog, utc_now


class SqlCatalog(Catalog):
    """See `Catalog`. Every method is one transaction of `database`.

    Args:
        database: already migrated to this release's tables.
        clock: gives the times that rows carry; they order nothing.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._clock = clock

    def publish(
        self,
        draft: VersionDraft,
        aliases: Sequence[str],
        *,
        guard: Callable[[], None] | None = None,
        idempotency: Idempotency | None = None,
        extends: bool = False,
    ) -> Publication:
        """See `Catalog.publish`."""
        with self._writing(draft.client) as write:
            client = write.get_or_create_client(draft.client)
            known = None if idempotency is None else queries.find_publication(write.connection, client, idempotency)
            if known is not None:
                return known
            if extends and queries.base_number(write.connection, client) != draft.parent:
                raise ParentSuperseded(
                    f"another version of {draft.client!r} was published in the meantime; nothing was recorded; "
                    "send the request again"
                )
            if guard is not None:
                guard()
            keep = draft.samples_kept and queries.client_settings(write.connection, client).retain_samples
            number = write.insert_version(client, replace(draft, samples_kept=keep))
            moves = tuple(write.move_alias(client, alias, number, reason="adapt") for alias in aliases)
            live = queries.live_version(write.connection, client)
            if idempotency is not None:
                write.insert_idempotency(client, idempotency, number, live)
            return Publication(queries.get_recorded_version(write.connection, client, number), moves, live)

    def move_alias(
        self, client: str, alias: str, version: int, *, expected_revision: int | None, reason: str
    ) -> AliasMove:
        """See `Catalog.move_alias`."""
        with self._writing(client) as write:
            found = queries.get_client(write.connection, client)
            queries.get_version(write.connection, found, version)
            _require_revision(queries.find_alias(write.connection, found, alias), alias, expected_revision)
            return write.move_alias(found, alias, version, reason=reason)

    def roll_back(self, client: str, alias: str, *, expected_revision: int | None = None) -> AliasMove:
        """See `Catalog.roll_back`."""
        with self._writing(client) as write:
            found = queries.get_client(write.connection, client)
            current = queries.get_alias(write.connection, found, alias)
            _require_revision(current, alias, expected_revision)
            target = queries.rollback_target(write.connection, found, current)
            if target is None:
                raise NothingToRollBackTo(
                    f"alias {alias!r} of client {client!r} points at version {current.version} and there is no earlier "
                    "version; set the alias to a version, or adapt a new one"
                )
            return write.move_alias(found, alias, target.version, reason="rollback", restores=target.revision)

    def recall(self, client: str, idempotency: Idempotency) -> Publication | None:
        """See `Catalog.recall`."""
        with self._reading() as connection:
            found = queries.find_client(connection, client)
            return None if found is None else queries.find_publication(connection, found, idempotency)

    def clients(self) -> tuple[ClientSummary, ...]:
        """See `Catalog.clients`."""
        with self._reading() as connection:
            return queries.client_summaries(connection)

    def names(self) -> tuple[str, ...]:
        """See `Catalog.names`."""
        with self._reading() as connection:
            return queries.client_names(connection)

    def client(self, client: str) -> ClientSummary:
        """See `Catalog.client`."""
        with self._reading() as connection:
            return queries.client_summaries(connection, queries.get_client(connection, client).name)[0]

    def version(self, client: str, number: int) -> Version:
        """See `Catalog.version`."""
        with self._reading() as connection:
            return queries.get_version(connection, queries.get_client(connection, client), number)

    def served(self, client: str, reference: str | int) -> ServedVersion:
        """See `Catalog.served`."""
        with self._reading() as connection:
            return queries.get_served(connection, client, reference)

    def revision(self) -> int | None:
        """See `Catalog.revision`."""
        return self._database.revision()

    def versions(self, client: str) -> tuple[Version, ...]:
        """See `Catalog.versions`."""
        with self._reading() as connection:
            return queries.read_versions(connection, queries.get_client(connection, client))

    def latest(self, client: str) -> Version | None:
        """See `Catalog.latest`."""
        with self._reading() as connection:
            found = queries.find_client(connection, client)
            number = None if found is None else queries.latest_number(connection, found)
            return None if found is None or number is None else queries.get_version(connection, found, number)

    def alias(self, client: str, alias: str) -> AliasMove:
        """See `Catalog.alias`."""
        with self._reading() as connection:
            return queries.get_alias(connection, queries.get_client(connection, client), alias)

    def history(self, client: str, *, at: datetime | None = None) -> tuple[AliasMove, ...]:
        """See `Catalog.history`."""
        with self._reading() as connection:
            return queries.alias_log(connection, queries.get_client(connection, client), at=at)

    def delete_version(self, client: str, number: int) -> Version:
        """See `Catalog.delete_version`."""
        with self._writing(client, erasing=True) as write:
            found = queries.get_client(write.connection, client)
            version = queries.get_version(write.connection, found, number)
            pointing = select(ALIASES.c.alias).where(ALIASES.c.client_id == found.id, ALIASES.c.version == number)
            names = sorted(write.connection.execute(pointing).scalars())
            if names:
                raise VersionInUse(
                    f"the alias {', '.join(map(repr, names))} points at version {number} of client {client!r}; move it "
                    "to another version first"
                )
            write.delete_version(found, version)
            return version

    def delete_client(self, client: str) -> int:
        """See `Catalog.delete_client`."""
        with self._writing(client, erasing=True) as write:
            this = CLIENTS.c.name == client
            count = select(func.count(VERSIONS.c.id)).join(CLIENTS, CLIENTS.c.id == VERSIONS.c.client_id)
            versions = write.connection.execute(count.where(this, VERSIONS.c.deleted_at.is_(None))).scalar_one()
            if write.connection.execute(delete(CLIENTS).where(this)).rowcount == 0:
                raise UnknownClient(client)
            return int(versions)

    def settings(self, client: str) -> ClientSettings:
        """See `Catalog.settings`."""
        with self._reading() as connection:
            return queries.client_settings(connection, queries.get_client(connection, client))

    def update_settings(self, client: str, settings: ClientSettings) -> None:
        """See `Catalog.update_settings`."""
        with self._writing(client, erasing=not settings.retain_samples) as write:
            found = write.get_or_create_client(client)
            write.update_settings(found, settings)
            if not settings.retain_samples:
                write.drop_samples(found)

    @contextmanager
    def holding(self, client: str) -> Iterator[frozenset[str]]:
        """See `Catalog.holding`."""
        with self._writing(client) as write:
            found = queries.find_client(write.connection, client)
            yield frozenset() if found is None else queries.required_blobs(write.connection, found)

    def export(self, path: Path) -> None:
        """See `Catalog.export`."""
        catalog_copy.export(self._database, path)

    @contextmanager
    def copy_in(self, path: Path) -> Iterator[Catalog]:
        """See `Catalog.copy_in`."""
        with catalog_copy.opened(path) as database:
            yield SqlCatalog(database, self._clock)

    def load(self, path: Path) -> None:
        """See `Catalog.load`."""
        with _unreadable_rows_are_corrupt():
            catalog_copy.load(self._database, path)

    def problems(self) -> tuple[str, ...]:
        """See `Catalog.problems`."""
        found = self._database.problems()
        with self._database.reading() as connection:
            return (*found, *row_problems(connection))

    def ping(self) -> None:
        """See `Catalog.ping`."""
        with self._reading() as connection:
            connection.execute(select(CLIENTS.c.id).limit(1)).all()

    def close(self) -> None:
        """See `Catalog.close`."""
        self._database.close()

    @contextmanager
    def _writing(self, client: str, *, erasing: bool = False) -> Iterator[Statements]:
        with _unreadable_rows_are_corrupt(), self._database.writing(client, erasing=erasing) as connection:
            yield Statements(connection, self._clock())

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with _unreadable_rows_are_corrupt(), self._database.reading() as connection:
            yield connection


@dataclass(frozen=True, slots=True)
class Statements:
    """The statements that change rows, in one open transaction.

    Attributes:
        connection: of a writing transaction.
        now: the time that its rows carry, UTC.
    """

    connection: Connection
    now: datetime

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
            {"version_id": version_id, "position": i, "digest": ref.digest, "label": ref.label, "name": ref.name}
            for i, ref in enumerate(draft.samples)
        ]
        if samples:
            self.connection.execute(insert(SAMPLES), samples)
        return number

    def move_alias(
        self, client: ClientRow, alias: str, version: int, *, reason: str, restores: int | None = None
    ) -> AliasMove:
        """Append a move to the log and point the alias at the version."""
        before = queries.find_alias(self.connection, client, alias)
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
        logged = with_checksum(ALIAS_MOVES, client.name, {name: getattr(move, name) for name in MOVE_COLUMNS})
        self.connection.execute(insert(ALIAS_MOVES).values(client_id=client.id, **logged))
        target = {"alias": alias, "revision": move.revision, "version": version}
        this = (ALIASES.c.client_id == client.id) & (ALIASES.c.alias == alias)
        values = with_checksum(ALIASES, client.name, target)
        if self.connection.execute(update(ALIASES).where(this).values(values)).rowcount == 0:
            self.connection.execute(insert(ALIASES).values(client_id=client.id, **values))
        return move

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

    def delete_version(self, client: ClientRow, version: Version) -> None:
        """Mark a version deleted and delete the rows of its samples; its number stays taken."""
        this = _is_version(client, version)
        its_id = select(VERSIONS.c.id).where(this).scalar_subquery()
        self.connection.execute(delete(SAMPLES).where(SAMPLES.c.version_id == its_id))
        deleted = replace(version, draft=replace(version.draft, samples=()), deleted_at=self.now)
        self.connection.execute(update(VERSIONS).where(this).values(version_values(deleted)))

    def update_settings(self, client: ClientRow, settings: ClientSettings) -> None:
        """Replace the client's settings."""
        values = with_checksum(CLIENT_SETTINGS, client.name, {"settings": settings.to_json(), "changed_at": self.now})
        this = CLIENT_SETTINGS.c.client_id == client.id
        if self.connection.execute(update(CLIENT_SETTINGS).where(this).values(values)).rowcount == 0:
            self.connection.execute(insert(CLIENT_SETTINGS).values(client_id=client.id, **values))

    def drop_samples(self, client: ClientRow) -> None:
        """Record for every version that its samples are no longer kept."""
        for version in queries.read_versions(self.connection, client, include_deleted=True):
            without = replace(version, draft=replace(version.draft, samples_kept=False))
            self.connection.execute(
                update(VERSIONS).where(_is_version(client, version)).values(version_values(without))
            )


def _is_version(client: ClientRow, version: Version) -> ColumnElement[bool]:
    return and_(VERSIONS.c.client_id == client.id, VERSIONS.c.number == version.number)


@contextmanager
def _unreadable_rows_are_corrupt() -> Iterator[None]:
    """Raise VersionCorrupt for a row that cannot be decoded, such as one with truncated JSON."""
    try:
        yield
    except AnoleError:
        raise
    except (ValueError, TypeError) as error:
        raise VersionCorrupt(f"a row of the catalog cannot be decoded ({error}); restore a backup") from error


def _require_revision(current: AliasMove | None, alias: str, expected: int | None) -> None:
    found = 0 if current is None else current.revision
    if expected is not None and expected != found:
        raise AliasConflict(
            f"alias {alias!r} is at revision {found}, not {expected} as expected; it was moved in the meantime; read "
            "it again"
        )
