"""The catalog on any SQL database that `Database` fits: who may write what, in which transaction.

Knows no product and no file. A version's number is taken from its client's row in the transaction that records the
version, so numbers have no gaps; nothing is cached, so a read is never older than an acknowledged write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, delete, func, select

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
from service.store.catalog import moves, reads
from service.store.catalog.checks import row_problems
from service.store.catalog.database import Database
from service.store.catalog.tables import ALIASES, CLIENTS, VERSIONS
from service.store.catalog.writes import Writes
from service.store.clock import utc_now
from service.store.ports import Catalog


class SqlCatalog(Catalog):
    """See `Catalog`; every method is one transaction of `database`.

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
        with self._writing(draft.client) as (connection, writes):
            client = writes.made_client(draft.client)
            known = None if idempotency is None else reads.recall(connection, client, idempotency)
            if known is not None:
                return known
            if extends and reads.base_number(connection, client) != draft.parent:
                raise ParentSuperseded(
                    f"another version of {draft.client!r} came in between; nothing was recorded; send the request again"
                )
            if guard is not None:
                guard()
            keeps = draft.samples_kept and reads.settings_of(connection, client).retain_samples
            number = writes.record(client, replace(draft, samples_kept=keeps))
            made = tuple(writes.move(client, alias, number, reason="adapt") for alias in aliases)
            live = moves.live_version(connection, client)
            if idempotency is not None:
                writes.remember(client, idempotency, number, live)
            return Publication(reads.published(connection, client, number), made, live)

    def recall(self, client: str, idempotency: Idempotency) -> Publication | None:
        """See `Catalog.recall`."""
        with self._reading() as connection:
            found = reads.find_client(connection, client)
            return None if found is None else reads.recall(connection, found, idempotency)

    def clients(self) -> tuple[ClientSummary, ...]:
        """See `Catalog.clients`."""
        with self._reading() as connection:
            return reads.summaries(connection)

    def names(self) -> tuple[str, ...]:
        """See `Catalog.names`."""
        with self._reading() as connection:
            return reads.names(connection)

    def client(self, client: str) -> ClientSummary:
        """See `Catalog.client`."""
        with self._reading() as connection:
            return reads.summaries(connection, reads.need_client(connection, client).name)[0]

    def version(self, client: str, number: int) -> Version:
        """See `Catalog.version`."""
        with self._reading() as connection:
            return reads.need_version(connection, reads.need_client(connection, client), number)

    def served(self, client: str, reference: str | int) -> ServedVersion:
        """See `Catalog.served`."""
        with self._reading() as connection:
            return reads.need_served(connection, client, reference)

    def revision(self) -> int | None:
        """See `Catalog.revision`."""
        return self._database.changes()

    def versions(self, client: str) -> tuple[Version, ...]:
        """See `Catalog.versions`."""
        with self._reading() as connection:
            return reads.read_versions(connection, reads.need_client(connection, client))

    def latest(self, client: str) -> Version | None:
        """See `Catalog.latest`."""
        with self._reading() as connection:
            found = reads.find_client(connection, client)
            number = None if found is None else reads.latest_number(connection, found)
            return None if found is None or number is None else reads.any_version(connection, found, number)

    def alias(self, client: str, alias: str) -> AliasMove:
        """See `Catalog.alias`."""
        with self._reading() as connection:
            return moves.need_move(connection, reads.need_client(connection, client), alias)

    def history(self, client: str, *, at: datetime | None = None) -> tuple[AliasMove, ...]:
        """See `Catalog.history`."""
        with self._reading() as connection:
            return moves.moves_of(connection, reads.need_client(connection, client), at=at)

    def move_alias(
        self, client: str, alias: str, version: int, *, expected_revision: int | None, reason: str
    ) -> AliasMove:
        """See `Catalog.move_alias`."""
        with self._writing(client) as (connection, writes):
            found = reads.need_client(connection, client)
            reads.need_version(connection, found, version)
            _expect(moves.current_move(connection, found, alias), alias, expected_revision)
            return writes.move(found, alias, version, reason=reason)

    def roll_back(self, client: str, alias: str, *, expected_revision: int | None = None) -> AliasMove:
        """See `Catalog.roll_back`."""
        with self._writing(client) as (connection, writes):
            found = reads.need_client(connection, client)
            current = moves.need_move(connection, found, alias)
            _expect(current, alias, expected_revision)
            target = moves.move_before(connection, found, current)
            if target is None:
                raise NothingToRollBackTo(
                    f"alias {alias!r} of client {client!r} points at version {current.version} and no earlier version "
                    "is left; set the alias to a version, or adapt anew"
                )
            return writes.move(found, alias, target.version, reason="rollback", restores=target.revision)

    def delete_version(self, client: str, number: int) -> Version:
        """See `Catalog.delete_version`."""
        with self._writing(client, erasing=True) as (connection, writes):
            found = reads.need_client(connection, client)
            version = reads.need_version(connection, found, number)
            pointing = select(ALIASES.c.alias).where(ALIASES.c.client_id == found.id, ALIASES.c.version == number)
            names = sorted(connection.execute(pointing).scalars())
            if names:
                raise VersionInUse(
                    f"version {number} of client {client!r} is what {', '.join(map(repr, names))} points at; "
                    "move the alias to another version first"
                )
            writes.let_go(found, version)
            return version

    def delete_client(self, client: str) -> int:
        """See `Catalog.delete_client`."""
        with self._writing(client, erasing=True) as (connection, _):
            mine = CLIENTS.c.name == client
            kept = select(func.count(VERSIONS.c.id)).join(CLIENTS, CLIENTS.c.id == VERSIONS.c.client_id)
            versions = connection.execute(kept.where(mine, VERSIONS.c.deleted_at.is_(None))).scalar_one()
            if connection.execute(delete(CLIENTS).where(mine)).rowcount == 0:
                raise UnknownClient(client)
            return int(versions)

    def settings(self, client: str) -> ClientSettings:
        """See `Catalog.settings`."""
        with self._reading() as connection:
            return reads.settings_of(connection, reads.need_client(connection, client))

    def update_settings(self, client: str, settings: ClientSettings) -> None:
        """See `Catalog.update_settings`."""
        with self._writing(client, erasing=not settings.retain_samples) as (_, writes):
            found = writes.made_client(client)
            writes.update_settings(found, settings)
            if not settings.retain_samples:
                writes.forget_samples(found)

    @contextmanager
    def holding(self, client: str) -> Iterator[frozenset[str]]:
        """See `Catalog.holding`."""
        with self._writing(client) as (connection, _):
            found = reads.find_client(connection, client)
            yield frozenset() if found is None else reads.digests_needed(connection, found)

    @contextmanager
    def _writing(self, client: str, *, erasing: bool = False) -> Iterator[tuple[Connection, Writes]]:
        with _understood(), self._database.writing(client, erasing=erasing) as connection:
            yield connection, Writes(connection, self._clock())

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with _understood(), self._database.reading() as connection:
            yield connection

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
        with _understood():
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
def _understood() -> Iterator[None]:
    """Say of a row that cannot even be read, such as half a JSON text, that it is damaged."""
    try:
        yield
    except AnoleError:
        raise
    except (ValueError, TypeError) as error:
        raise VersionCorrupt(f"a row of the catalog cannot be understood ({error}); restore a backup") from error


def _expect(current: AliasMove | None, alias: str, revision: int | None) -> None:
    found = 0 if current is None else current.revision
    if revision is not None and revision != found:
        raise AliasConflict(
            f"alias {alias!r} is at revision {found}, not {revision} as expected; somebody moved it; read it again"
        )
