"""The catalog on any SQL database that `Database` fits: who may write what, in which transaction.

Knows no product and no file. A version's number is taken from its client's row in the transaction that records the
version, so numbers have no gaps; nothing is cached, so a read is never older than an acknowledged write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from sqlalchemy import Connection, delete, insert, select, update

from service.domain import AliasMove, ClientSummary, Idempotency, Publication, ServedVersion, Version, VersionDraft
from service.errors import AliasConflict, NothingToRollBackTo, UnknownClient, VersionInUse
from service.store import catalog_reads as reads
from service.store.catalog_reads import ClientKey
from service.store.catalog_tables import ALIAS_MOVES, ALIASES, CLIENTS, IDEMPOTENCY, SAMPLES, VERSIONS
from service.store.database import Database
from service.store.ports import Catalog


def utc_now() -> datetime:
    """The time of day, in UTC."""
    return datetime.now(UTC)


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
    ) -> Publication:
        """See `Catalog.publish`."""
        with self._database.writing() as connection:
            client = self._made_client(connection, draft.client)
            known = None if idempotency is None else reads.recall(connection, client, idempotency)
            if known is not None:
                return known
            if guard is not None:
                guard()
            number = self._record(connection, client, draft)
            for alias in aliases:
                self._move(connection, client, alias, number, reason="adapt")
            live = reads.live_version(connection, client)
            if idempotency is not None:
                self._remember(connection, client, idempotency, number, live)
            return reads.publication(connection, client, number, live=live)

    def recall(self, client: str, idempotency: Idempotency) -> Publication | None:
        """See `Catalog.recall`."""
        with self._database.reading() as connection:
            found = reads.find_client(connection, client)
            return None if found is None else reads.recall(connection, found, idempotency)

    def clients(self) -> tuple[ClientSummary, ...]:
        """See `Catalog.clients`."""
        with self._database.reading() as connection:
            return reads.summaries(connection)

    def client(self, client: str) -> ClientSummary:
        """See `Catalog.client`."""
        with self._database.reading() as connection:
            return reads.summaries(connection, reads.need_client(connection, client).name)[0]

    def version(self, client: str, number: int) -> Version:
        """See `Catalog.version`."""
        with self._database.reading() as connection:
            return reads.need_version(connection, reads.need_client(connection, client), number)

    def served(self, client: str, reference: str | int) -> ServedVersion:
        """See `Catalog.served`."""
        with self._database.reading() as connection:
            return reads.need_served(connection, client, reference)

    def versions(self, client: str) -> tuple[Version, ...]:
        """See `Catalog.versions`."""
        with self._database.reading() as connection:
            return reads.read_versions(connection, reads.need_client(connection, client))

    def latest(self, client: str) -> Version | None:
        """See `Catalog.latest`."""
        with self._database.reading() as connection:
            found = reads.find_client(connection, client)
            number = None if found is None else reads.latest_number(connection, found)
            return None if found is None or number is None else reads.any_version(connection, found, number)

    def alias(self, client: str, alias: str) -> AliasMove:
        """See `Catalog.alias`."""
        with self._database.reading() as connection:
            return reads.need_move(connection, reads.need_client(connection, client), alias)

    def history(self, client: str, *, at: datetime | None = None) -> tuple[AliasMove, ...]:
        """See `Catalog.history`."""
        with self._database.reading() as connection:
            return reads.moves_of(connection, reads.need_client(connection, client), at=at)

    def move_alias(
        self, client: str, alias: str, version: int, *, expected_revision: int | None, reason: str
    ) -> AliasMove:
        """See `Catalog.move_alias`."""
        with self._database.writing() as connection:
            found = reads.need_client(connection, client)
            reads.need_version(connection, found, version)
            _expect(reads.current_move(connection, found, alias), alias, expected_revision)
            return self._move(connection, found, alias, version, reason=reason)

    def roll_back(self, client: str, alias: str, *, expected_revision: int | None = None) -> AliasMove:
        """See `Catalog.roll_back`."""
        with self._database.writing() as connection:
            found = reads.need_client(connection, client)
            current = reads.need_move(connection, found, alias)
            _expect(current, alias, expected_revision)
            target = reads.move_before(connection, found, current)
            if target is None:
                raise NothingToRollBackTo(
                    f"alias {alias!r} of client {client!r} points at version {current.version} and no earlier version "
                    "is left; set the alias to a version, or adapt anew"
                )
            return self._move(connection, found, alias, target.version, reason="rollback", restores=target.revision)

    def delete_version(self, client: str, number: int) -> Version:
        """See `Catalog.delete_version`."""
        with self._database.writing(erasing=True) as connection:
            found = reads.need_client(connection, client)
            version = reads.need_version(connection, found, number)
            pointing = select(ALIASES.c.alias).where(ALIASES.c.client_id == found.id, ALIASES.c.version == number)
            names = sorted(connection.execute(pointing).scalars())
            if names:
                raise VersionInUse(
                    f"version {number} of client {client!r} is what {', '.join(map(repr, names))} points at; "
                    "move the alias to another version first"
                )
            this = (VERSIONS.c.client_id == found.id) & (VERSIONS.c.number == number)
            mine = SAMPLES.c.version_id == select(VERSIONS.c.id).where(this).scalar_subquery()
            connection.execute(delete(SAMPLES).where(mine))
            connection.execute(update(VERSIONS).where(this).values(deleted_at=self._clock()))
            return version

    def delete_client(self, client: str) -> None:
        """See `Catalog.delete_client`."""
        with self._database.writing(erasing=True) as connection:
            removed = connection.execute(delete(CLIENTS).where(CLIENTS.c.name == client))
            if removed.rowcount == 0:
                raise UnknownClient(f"no client is called {client!r}; nothing was deleted")

    @contextmanager
    def holding(self, client: str) -> Iterator[frozenset[str]]:
        """See `Catalog.holding`."""
        with self._database.writing() as connection:
            found = reads.find_client(connection, client)
            yield frozenset() if found is None else reads.digests_needed(connection, found)

    def problems(self) -> tuple[str, ...]:
        """See `Catalog.problems`."""
        return self._database.problems()

    def ping(self) -> None:
        """See `Catalog.ping`."""
        with self._database.reading() as connection:
            connection.execute(select(CLIENTS.c.id).limit(1)).all()

    def close(self) -> None:
        """See `Catalog.close`."""
        self._database.close()

    def _made_client(self, connection: Connection, name: str) -> ClientKey:
        found = reads.find_client(connection, name)
        if found is None:
            connection.execute(insert(CLIENTS).values(name=name, created_at=self._clock(), latest=0))
            found = reads.need_client(connection, name)
        return found

    def _record(self, connection: Connection, client: ClientKey, draft: VersionDraft) -> int:
        """Take the client's next number and record the draft under it."""
        mine = CLIENTS.c.id == client.id
        connection.execute(update(CLIENTS).where(mine).values(latest=CLIENTS.c.latest + 1))
        number = connection.execute(select(CLIENTS.c.latest).where(mine)).scalar_one()
        row = {
            "client_id": client.id,
            "number": number,
            "created_at": self._clock(),
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
        }
        version_id = connection.execute(insert(VERSIONS).values(row).returning(VERSIONS.c.id)).scalar_one()
        samples = [
            {
                "version_id": version_id,
                "position": i,
                "digest": sample.digest,
                "label": sample.label,
                "name": sample.name,
            }
            for i, sample in enumerate(draft.samples)
        ]
        if samples:
            connection.execute(insert(SAMPLES), samples)
        return int(number)

    def _move(
        self,
        connection: Connection,
        client: ClientKey,
        alias: str,
        version: int,
        *,
        reason: str,
        restores: int | None = None,
    ) -> AliasMove:
        """Append a move to the log and point the alias there."""
        before = reads.current_move(connection, client, alias)
        move = AliasMove(
            client=client.name,
            alias=alias,
            revision=1 if before is None else before.revision + 1,
            version=version,
            previous=None if before is None else before.version,
            moved_at=self._clock(),
            reason=reason,
            restores=restores,
        )
        row = {
            field: getattr(move, field) for field in ("alias", "revision", "version", "previous", "moved_at", "reason")
        }
        connection.execute(insert(ALIAS_MOVES).values(client_id=client.id, restores=restores, **row))
        target = {"revision": move.revision, "version": version}
        mine = (ALIASES.c.client_id == client.id) & (ALIASES.c.alias == alias)
        changed = connection.execute(update(ALIASES).where(mine).values(target))
        if changed.rowcount == 0:
            connection.execute(insert(ALIASES).values(client_id=client.id, alias=alias, **target))
        return move

    def _remember(
        self, connection: Connection, client: ClientKey, idempotency: Idempotency, number: int, live: int | None
    ) -> None:
        row = {"client_id": client.id, "key": idempotency.key, "body_digest": idempotency.body_digest}
        connection.execute(insert(IDEMPOTENCY).values(version=number, live=live, created_at=self._clock(), **row))


def _expect(current: AliasMove | None, alias: str, revision: int | None) -> None:
    found = 0 if current is None else current.revision
    if revision is not None and revision != found:
        raise AliasConflict(
            f"alias {alias!r} is at revision {found}, not {revision} as expected; somebody moved it; read it again"
        )
