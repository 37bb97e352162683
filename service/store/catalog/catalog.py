"""The catalog of clients, versions and aliases, on any SQL database that implements `Database`.

Nothing is cached, so a read is never older than an acknowledged write. See ``publishing.py`` for how a version becomes
live.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, select, update

from models.errors import AnoleError
from service.domain.audit import AuditEntry, AuditQuery
from service.domain.client import ClientSettings, ClientSummary
from service.domain.drift import Period
from service.domain.job import NO_ORIGIN, Origin
from service.domain.prediction_log import Comparison, LoggedPrediction, PredictionQuery, Retention
from service.domain.version import (
    AliasMove,
    ExpectedRevision,
    Idempotency,
    Lineage,
    Publication,
    ServedVersion,
    Version,
    VersionDraft,
    VersionSummary,
)
from service.errors import UnknownClient, VersionCorrupt, VersionInUse
from service.store.catalog import audit, predictions, queries, served
from service.store.catalog import copy as catalog_copy
from service.store.catalog.integrity import row_problems
from service.store.catalog.jobs import SqlJobs, delete_jobs
from service.store.catalog.publishing import Publishing
from service.store.catalog.queries import ClientRow, version_values
from service.store.catalog.tables import ALIASES, CLIENT_SETTINGS, CLIENTS, SAMPLES, VERSIONS, verify_row, with_checksum
from service.store.ports import Database, JobRecords, utc_now

_PREDICTIONS_SCOPE: Final = "predictions *"
"""The scope that writers of the prediction log exclude each other from. No client has this name."""


class Catalog:
    """Clients, versions, aliases and jobs. Every method is one transaction of `database`.

    Every row has a checksum, which is verified whenever the row is read. In addition to the errors that they name, all
    methods raise VersionCorrupt if a row that they need is damaged.

    Args:
        database: already migrated to this release's tables.
        clock: gives the times that rows carry; they order nothing.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._clock = clock
        self.jobs: JobRecords = SqlJobs(database, clock)

    def publish(
        self,
        draft: VersionDraft,
        aliases: Sequence[str],
        *,
        guard: Callable[[], None] | None = None,
        idempotency: Idempotency | None = None,
        extends: bool = False,
        origin: Origin = NO_ORIGIN,
    ) -> Publication:
        """Record `draft` under the client's next number and move `aliases` to it, all or nothing.

        The first version creates the client. Racing callers get distinct numbers without gaps. If the client's settings
        retain no samples, the version is recorded as one whose samples are not kept.

        Args:
            draft: the version.
            aliases: names of the aliases to move.
            guard: called within the transaction, while no other caller is `holding` the client. If it raises, nothing
                is recorded. It must not call the catalog.
            idempotency: if it is already recorded, nothing is written and its publication is returned.
            extends: whether the draft must extend the current base, see `Lineage`.
            origin: what must hold of the request, and its job, which the same transaction changes.

        Raises:
            ClientDeleted: the client was deleted, and perhaps created again; nothing was recorded.
            ClientExists: the client exists, and `origin` wants a new one; nothing was recorded.
            JobCancelled, WorkerLost: the job has ended; nothing was recorded.
            IdempotencyMismatch: the key is recorded with another body.
            ParentSuperseded: `extends`, and the draft's parent is not the current base; nothing was recorded.
            StoreFull, StoreUnavailable: nothing was recorded.
        """
        with self._publishing(draft.client) as transaction:
            return transaction.publish(
                draft,
                aliases,
                guard=guard,
                idempotency=idempotency,
                extends=extends,
                origin=origin,
            )

    def move_alias(self, client: str, alias: str, version: int, *, expected_revision: ExpectedRevision) -> AliasMove:
        """Point the alias at an existing version; with `expected_revision` only if that is its latest one.

        `expected_revision` is a revision or the tag of a move. A tag never matches a later client of the same name.
        0 means "only if the alias does not exist yet"; None means unconditionally.

        Raises:
            UnknownClient, UnknownVersion, AliasConflict.
        """
        with self._publishing(client) as transaction:
            return transaction.set_alias(client, alias, version, expected_revision=expected_revision)

    def roll_back(self, client: str, alias: str, *, expected_revision: ExpectedRevision = None) -> AliasMove:
        """Point the alias at the version before the current one. Repeated calls go further back.

        Deleted versions, and moves that did not change the version, are skipped.

        Raises:
            UnknownClient, UnknownAlias, NothingToRollBackTo, AliasConflict.
        """
        with self._publishing(client) as transaction:
            return transaction.roll_back(client, alias, expected_revision=expected_revision)

    def promote(self, client: str, *, expected_revision: ExpectedRevision = None) -> AliasMove:
        """Point the alias `live` at the version that `candidate` points at, unless it does already.

        Raises UnknownClient, UnknownAlias.

        `expected_revision` is that of `live`; see `move_alias`.
        """
        with self._publishing(client) as transaction:
            return transaction.promote(client, expected_revision=expected_revision)

    def recall(self, client: str, idempotency: Idempotency) -> Publication | None:
        """Return what was published under that key, or None if nothing was or the client is unknown.

        Raises:
            IdempotencyMismatch: the key is recorded with another body.
        """
        with self._reading() as connection:
            found = queries.find_client(connection, client)
            return None if found is None else queries.find_publication(connection, found, idempotency)

    def clients(
        self, names: Collection[str] | None = None, *, after: str = "", limit: int | None = None
    ) -> tuple[ClientSummary, ...]:
        """Return clients by name.

        Args:
            names: only clients of these names; None is all.
            after: only clients whose names follow this one.
            limit: number of clients at most; None is all.
        """
        with self._reading() as connection:
            return queries.client_summaries(connection, names, after=after, limit=limit)

    def names(self) -> tuple[str, ...]:
        """Return the names of all clients, including those with damaged rows."""
        with self._reading() as connection:
            return queries.client_names(connection)

    def identities(self) -> frozenset[tuple[str, datetime]]:
        """Return the name and the creation time of each client, which together identify it for ever."""
        with self._reading() as connection:
            rows = connection.execute(select(CLIENTS.c.name, CLIENTS.c.created_at))
            return frozenset((row.name, row.created_at) for row in rows)

    def created_at(self, client: str) -> datetime | None:
        """Return when the client was created, or None if there is no such client."""
        with self._reading() as connection:
            found = queries.find_client(connection, client)
            return None if found is None else found.created_at

    def client(self, client: str) -> ClientSummary:
        """Return a client. Raises UnknownClient."""
        with self._reading() as connection:
            return queries.client_summaries(connection, [queries.get_client(connection, client).name])[0]

    def version(self, client: str, number: int) -> Version:
        """Return a version. Raises UnknownClient, UnknownVersion (also if it was deleted)."""
        with self._reading() as connection:
            return queries.get_version(connection, queries.get_client(connection, client), number)

    def served(self, client: str, reference: str | int) -> ServedVersion:
        """Return what a prediction needs of a version, given its number or an alias; one cheap read.

        Raises:
            UnknownClient, UnknownAlias, UnknownVersion.
        """
        with self._reading() as connection:
            return served.get_served(connection, client, reference)

    def revision(self) -> int | None:
        """Return a number that changes with every commit of any process.

        None if it cannot be told much faster than `served` runs.

        Raises:
            StoreUnavailable: the catalog cannot be read.
        """
        return self._database.revision()

    def versions(self, client: str) -> tuple[Version, ...]:
        """Return the versions that are not deleted, oldest first. Raises UnknownClient."""
        with self._reading() as connection:
            return queries.read_versions(connection, queries.get_client(connection, client))

    def version_summaries(self, client: str, *, after: int = 0, limit: int = 100) -> tuple[VersionSummary, ...]:
        """Return at most `limit` versions that are not deleted, from the first number after `after`, oldest first.

        Their samples are counted, and not read. Raises UnknownClient.
        """
        with self._reading() as connection:
            found = queries.get_client(connection, client)
            return queries.version_summaries(connection, found, after=after, limit=limit)

    def version_numbers(self, client: str) -> tuple[int, ...]:
        """Return the numbers of the versions that are not deleted, oldest first. Raises UnknownClient."""
        with self._reading() as connection:
            return queries.version_numbers(connection, queries.get_client(connection, client))

    def latest(self, client: str) -> Version | None:
        """Return the newest version that is not deleted, or None. None also for an unknown client."""
        with self._reading() as connection:
            found = queries.find_client(connection, client)
            number = None if found is None else queries.latest_number(connection, found)
            return None if found is None or number is None else queries.get_version(connection, found, number)

    def lineage(self, client: str) -> Lineage:
        """Return the versions that matter to a new one; none for an unknown client."""
        with self._reading() as connection:
            found = queries.find_client(connection, client)
            return Lineage() if found is None else queries.lineage(connection, found)

    def first_versions(self, client: str, digest: str | None = None) -> Mapping[str, int]:
        """Return the digest of each stored sample -> the first version that has it. Raises UnknownClient.

        Samples of deleted versions, and of versions that keep none, are left out.

        Args:
            client: client name.
            digest: only this sample; None is all.
        """
        with self._reading() as connection:
            return queries.first_versions(connection, queries.get_client(connection, client), digest)

    def alias(self, client: str, alias: str) -> AliasMove:
        """Return the latest move of an alias. Raises UnknownClient, UnknownAlias."""
        with self._reading() as connection:
            return queries.get_alias(connection, queries.get_client(connection, client), alias)

    def history(
        self, client: str, *, at: datetime | None = None, after: int = 0, limit: int | None = None
    ) -> tuple[AliasMove, ...]:
        """Return the alias moves, oldest first; with `at` (UTC) only those made no later. Raises UnknownClient.

        Args:
            client: client name.
            at: None is now.
            after: number of moves to leave out from the start.
            limit: number of moves at most; None is all.
        """
        with self._reading() as connection:
            found = queries.get_client(connection, client)
            return queries.alias_log(connection, found, at=at, after=after, limit=limit)

    def audit(self, query: AuditQuery) -> tuple[AuditEntry, ...]:
        """Return entries of the audit log, newest first."""
        with self._reading() as connection:
            return audit.entries(connection, query)

    def add_predictions(self, entries: Sequence[LoggedPrediction], retention: Retention) -> int:
        """Store entries of the prediction log, delete some that are not kept any more, and return how many were stored.

        Entries of clients that were deleted in the meantime are left out.

        Raises:
            StoreFull, StoreUnavailable: nothing was stored.
        """
        with self._writing(_PREDICTIONS_SCOPE) as connection:
            predictions.prune(connection, retention, self._clock())
            return predictions.add(connection, entries)

    def predictions(self, client: str, query: PredictionQuery) -> tuple[LoggedPrediction, ...]:
        """Return entries of the prediction log, newest first. Raises UnknownClient."""
        with self._reading() as connection:
            return predictions.read(connection, queries.get_client(connection, client), query)

    def recent_judgements(
        self, client: str, version: int, since: datetime, limit: int
    ) -> list[tuple[datetime, bool, float]]:
        """Return time, whether it is unknown, and confidence of the newest answers of a version.

        Raises:
            UnknownClient.
        """
        with self._reading() as connection:
            found = queries.get_client(connection, client)
            return predictions.recent(connection, found, version, since, limit)

    def live_hours(self, names: Collection[str], since: datetime, limit: int) -> Mapping[str, list[Period]]:
        """Count what the live versions of clients said, by the hour, among the newest entries of all clients."""
        with self._reading() as connection:
            return predictions.live_hours(connection, names, since, limit)

    def compare_judgements(self, client: str, version: int, candidate: int) -> Comparison:
        """Count how a candidate judged the images that a version answered. Raises UnknownClient, UnknownVersion."""
        with self._reading() as connection:
            found = queries.get_client(connection, client)
            numbers = [queries.get_version(connection, found, number).number for number in (version, candidate)]
            return predictions.compare(connection, found, *numbers)

    def delete_version(self, client: str, number: int) -> Version:
        """Mark a version deleted; its samples and its need of blobs go, its number stays taken.

        Returns:
            The version as it was.

        Raises:
            UnknownClient, UnknownVersion.
            VersionInUse: an alias points at it.
        """
        with self._writing(client, erasing=True) as connection:
            found = queries.get_client(connection, client)
            version = queries.get_version(connection, found, number)
            pointing = select(ALIASES.c.alias).where(ALIASES.c.client_id == found.id, ALIASES.c.version == number)
            names = sorted(connection.execute(pointing).scalars())
            if names:
                raise VersionInUse(
                    f"the alias {', '.join(map(repr, names))} points at version {number} of client {client!r}; move it "
                    "to another version first"
                )
            this = _is_version(found, version)
            its_id = select(VERSIONS.c.id).where(this).scalar_subquery()
            connection.execute(delete(SAMPLES).where(SAMPLES.c.version_id == its_id))
            deleted = replace(version, draft=replace(version.draft, samples=()), deleted_at=self._clock())
            connection.execute(update(VERSIONS).where(this).values(version_values(deleted)))
            audit.record(connection, self._clock(), "version.delete", client, {"version": number})
            return version

    def delete_client(self, client: str) -> int:
        """Delete every row of the client, including damaged ones, and return the number of its versions.

        Raises:
            UnknownClient.
        """
        with self._writing(client, erasing=True) as connection:
            this = CLIENTS.c.name == client
            count = select(func.count(VERSIONS.c.id)).join(CLIENTS, CLIENTS.c.id == VERSIONS.c.client_id)
            versions = connection.execute(count.where(this, VERSIONS.c.deleted_at.is_(None))).scalar_one()
            if connection.execute(delete(CLIENTS).where(this)).rowcount == 0:
                raise UnknownClient(client)
            delete_jobs(connection, client)
            audit.record(connection, self._clock(), "client.delete", client, {"versions": int(versions)})
            return int(versions)

    def settings(self, client: str) -> ClientSettings:
        """Return the client's settings, or the defaults. Raises UnknownClient."""
        with self._reading() as connection:
            return queries.client_settings(connection, queries.get_client(connection, client))

    def update_settings(self, client: str, settings: ClientSettings) -> None:
        """Replace the client's settings; create the client if there is none.

        Settings that retain no samples apply to all versions at once: none needs its samples any more.
        """
        with self._writing(client, erasing=not settings.retain_samples) as connection:
            found = Publishing(connection, self._clock()).get_or_create_client(client)
            self._write_settings(connection, found, settings)

    def change_settings(self, client: str, changes: Mapping[str, Any]) -> ClientSettings:
        """Change the named settings of the client, and return all of them. The others stay as they are.

        Raises:
            UnknownClient: there is no such client.
            InvalidRequest: a value is outside its range.
        """
        with self._writing(client, erasing=changes.get("retain_samples") is False) as connection:
            found = queries.get_client(connection, client)
            settings = replace(queries.client_settings(connection, found), **changes)
            self._write_settings(connection, found, settings)
            return settings

    @contextmanager
    def holding(self, client: str, digests: Collection[str] | None = None) -> Iterator[frozenset[str]]:
        """Block the client's publishes and deletions within the context, which gets the digests that its rows need.

        With `digests` it gets those of them that are needed, which is much faster but verifies no row. The client need
        not exist. The context must be short and must not call the catalog.

        Raises:
            StoreUnavailable: other writers held the client for too long.
        """
        with self._writing(client) as connection:
            found = queries.find_client(connection, client)
            if found is None:
                yield frozenset()
            elif digests is None:
                yield queries.required_blobs(connection, found)
            else:
                yield queries.required_among(connection, found, digests)

    def export(self, path: Path) -> None:
        """Write everything, as of one moment, into a new file, without stopping the service.

        Raises:
            StoreFull, StoreUnavailable: the file is incomplete.
        """
        catalog_copy.export(self._database, path)

    @contextmanager
    def copy_in(self, path: Path) -> Iterator[Catalog]:
        """Open a file that `export` wrote; a file of an earlier release is upgraded."""
        with catalog_copy.opened(path) as database:
            yield Catalog(database, self._clock)

    def load(self, path: Path) -> None:
        """Insert everything from a file that `export` wrote, all or nothing.

        Raises:
            InvalidRequest: the catalog already has clients.
        """
        with _unreadable_rows_are_corrupt():
            catalog_copy.load(self._database, path)

    def problems(self) -> tuple[str, ...]:
        """Return the damage in the database's files, in rows and between rows; empty if there is none."""
        with self._database.snapshot() as database:
            found = database.problems()
            with database.reading() as connection:
                return (*found, *row_problems(connection))

    def ping(self) -> None:
        """Raises StoreUnavailable if the catalog cannot be read."""
        with self._reading() as connection:
            connection.execute(select(CLIENTS.c.id).limit(1)).all()

    def close(self) -> None:
        """Close connections; the catalog is not used afterwards."""
        self._database.close()

    def _write_settings(self, connection: Connection, client: ClientRow, settings: ClientSettings) -> None:
        now, stored = self._clock(), settings.to_json()
        audit.record(connection, now, "settings.change", client.name, stored)
        values = with_checksum(CLIENT_SETTINGS, client.name, {"settings": stored, "changed_at": now})
        this = CLIENT_SETTINGS.c.client_id == client.id
        if connection.execute(update(CLIENT_SETTINGS).where(this).values(values)).rowcount == 0:
            connection.execute(insert(CLIENT_SETTINGS).values(client_id=client.id, **values))
        if not settings.retain_samples:
            _drop_samples(connection, client)

    @contextmanager
    def _publishing(self, client: str) -> Iterator[Publishing]:
        with self._writing(client) as connection:
            yield Publishing(connection, self._clock())

    @contextmanager
    def _writing(self, client: str, *, erasing: bool = False) -> Iterator[Connection]:
        with _unreadable_rows_are_corrupt(), self._database.writing(client, erasing=erasing) as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with _unreadable_rows_are_corrupt(), self._database.reading() as connection:
            yield connection


def _drop_samples(connection: Connection, client: ClientRow) -> None:
    """Record for every version that its samples are no longer kept."""
    kept = select(VERSIONS).where(VERSIONS.c.client_id == client.id, VERSIONS.c.samples_kept.is_(True))
    for row in connection.execute(kept).mappings().all():
        verify_row(VERSIONS, client.name, row, f"version {row['number']} of client {client.name!r}")
        seal = with_checksum(VERSIONS, client.name, {**row, "samples_kept": False})["seal"]
        this = VERSIONS.c.id == row["id"]
        connection.execute(update(VERSIONS).where(this).values(samples_kept=False, seal=seal))


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
