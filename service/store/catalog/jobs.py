"""Jobs in the catalog's database, so that every process of a store sees them.

A row belongs to the worker that runs its job. The state in the row decides: another process that cancels the job, or
finds its lease expired, writes that, and the transaction that would record the job's version then fails. So a job that
is cancelled or failed never makes a version, even if its worker was only suspended. See
docs/decisions/0072-jobs-in-the-catalog.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from sqlalchemy import Connection, delete, func, insert, select, update

from service.domain.job import ACTIVE, KEPT_S, LEASE_S, MAX_KEPT, JobRecord, JobState, JobUpdate, JobVersion, Progress
from service.domain.version import Publication
from service.errors import IdempotencyInFlight, JobCancelled, VersionCorrupt, client_deleted, worker_lost
from service.store.catalog import queries
from service.store.catalog.tables import JOBS, RowValues, verify_row, with_checksum
from service.store.ports import Database, JobRecords, utc_now

_LEASE: Final = timedelta(seconds=LEASE_S)
_KEPT: Final = timedelta(seconds=KEPT_S)


class SqlJobs(JobRecords):
    """See `JobRecords`. Every method is one transaction of `database`.

    Args:
        database: already migrated to this release's tables.
        clock: the time of day in UTC. PostgreSQL's own clock is used instead, because machines may differ.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._clock = clock

    def add(self, job: JobRecord) -> None:
        with self._database.writing(job.client) as connection:
            now = self._now(connection)
            if job.key is not None:
                self._reject_in_flight(connection, job, now)
            _forget(connection, job.client, now)
            row = {
                "job": job.id,
                "client": job.client,
                "key": job.key,
                "worker": job.worker,
                **_values(JobUpdate(job.id, job.state, job.progress)),
                "created_at": job.created_at,
                "changed_at": now,
            }
            connection.execute(insert(JOBS).values(with_checksum(JOBS, "", row)))

    def get(self, job_id: str) -> JobRecord | None:
        with self._database.reading() as connection:
            row = _find(connection, job_id)
            if row is None or not self._is_lost(connection, row):
                return None if row is None else _record(connection, row)
        with self._database.writing(row["client"]) as connection:
            row = _find(connection, job_id, lock=True)
            if row is not None and self._is_lost(connection, row):
                row = _change(connection, row, {"state": "failed"}, self._now(connection))
            return None if row is None else _record(connection, row)

    def renew(self, worker: str, updates: Sequence[JobUpdate]) -> Mapping[str, JobState | None]:
        ended: dict[str, JobState | None] = {}
        with self._database.writing(_scope(worker)) as connection:
            now = self._now(connection)
            for each in sorted(updates, key=lambda update: update.id):  # in the same order everywhere: no deadlocks
                try:
                    row = _find(connection, each.id, lock=True)
                except VersionCorrupt as error:  # the leases of the other jobs must not expire because of it
                    structlog.get_logger("anole.jobs").warning("a job is not renewed", job=each.id, reason=str(error))
                    continue
                if row is None or row["state"] not in ACTIVE:
                    ended[each.id] = None if row is None else row["state"]
                else:
                    _change(connection, row, _values(each), now)
        return ended

    def ended(self, job_ids: Collection[str]) -> Mapping[str, JobState | None]:
        with self._database.reading() as connection:
            found = connection.execute(select(JOBS.c.job, JOBS.c.state).where(JOBS.c.job.in_(job_ids)))
            states: dict[str, JobState] = {row.job: row.state for row in found}
        return {job_id: states.get(job_id) for job_id in job_ids if states.get(job_id) not in ACTIVE}

    def end(self, update: JobUpdate) -> bool:
        with self._database.writing(_scope(update.id)) as connection:
            row = _find(connection, update.id, lock=True)
            if row is None or row["state"] not in ACTIVE:
                return False
            _change(connection, row, _values(update), self._now(connection))
            return True

    def remove(self, job_id: str) -> None:
        with self._database.writing(_scope(job_id)) as connection:
            connection.execute(delete(JOBS).where(JOBS.c.job == job_id))

    def _reject_in_flight(self, connection: Connection, job: JobRecord, now: datetime) -> None:
        """Raises IdempotencyInFlight if a job with the same key runs. One whose worker is lost has failed."""
        same = select(JOBS).where(JOBS.c.client == job.client, JOBS.c.key == job.key, JOBS.c.state.in_(ACTIVE))
        for row in connection.execute(same.with_for_update()).mappings().all():
            if not self._is_lost(connection, row):
                raise IdempotencyInFlight(
                    f"a request of client {job.client!r} with Idempotency-Key {job.key!r} is still running; wait for "
                    "its response, or try again in a moment"
                )
            _change(connection, row, {"state": "failed"}, now)

    def _is_lost(self, connection: Connection, row: RowValues) -> bool:
        return row["state"] in ACTIVE and self._now(connection) - row["changed_at"] > _LEASE

    def _now(self, connection: Connection) -> datetime:
        """The time by which leases are judged, the same for all processes."""
        if connection.dialect.name == "postgresql":
            now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
            return now
        return self._clock()


def claim(connection: Connection, client: str, update: JobUpdate) -> RowValues:
    """Lock the row of a job whose version is about to be recorded in this transaction, and return it.

    Raises:
        JobCancelled, WorkerLost: the job has ended.
        ClientDeleted: there is no such job any more; those of a deleted client are deleted with it.
    """
    row = _find(connection, update.id, lock=True)
    if row is None:
        raise client_deleted(client)
    if row["state"] == "cancelled":
        raise JobCancelled(f"job {update.id} was cancelled")
    if row["state"] not in ACTIVE:
        raise worker_lost(update.id)
    return row


def record_version(connection: Connection, row: RowValues, update: JobUpdate, version: JobVersion) -> None:
    """Write that a job has made a version: its result if `update` says that it is done, else its first one."""
    made = replace(update, result=version) if update.state == "done" else replace(update, first=version)
    _change(connection, row, _values(made), row["changed_at"])


def delete_jobs(connection: Connection, client: str) -> None:
    """Delete all jobs of a client."""
    connection.execute(delete(JOBS).where(JOBS.c.client == client))


def _scope(name: str) -> str:
    """The scope that writers exclude each other from. No client has such a name."""
    return f"jobs {name}"


def _find(connection: Connection, job_id: str, *, lock: bool = False) -> RowValues | None:
    query = select(JOBS).where(JOBS.c.job == job_id)
    row = connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()
    if row is not None:
        verify_row(JOBS, "", row, f"job {job_id}")
    return row


def _change(connection: Connection, row: RowValues, values: Mapping[str, Any], now: datetime) -> RowValues:
    changed = with_checksum(JOBS, "", {**row, **values, "changed_at": now})
    connection.execute(update(JOBS).where(JOBS.c.job == row["job"]).values(changed))
    return changed


def _forget(connection: Connection, client: str, now: datetime) -> None:
    """Delete jobs that ended long ago or whose worker was lost long ago, and all but the client's newest that ended."""
    connection.execute(delete(JOBS).where(JOBS.c.changed_at < now - _KEPT))
    ended = select(JOBS.c.job).where(JOBS.c.client == client, JOBS.c.state.not_in(ACTIVE))
    old = connection.execute(ended.order_by(JOBS.c.changed_at.desc()).offset(MAX_KEPT - 1)).scalars().all()
    if old:
        connection.execute(delete(JOBS).where(JOBS.c.job.in_(old)))


def _values(update: JobUpdate) -> dict[str, Any]:
    progress, first, result = update.progress, update.first, update.result
    loss = progress.loss
    return {
        "state": update.state,
        "stage": progress.stage,
        "steps_done": progress.steps_done,
        "steps": progress.steps,
        "loss": loss if loss is not None and math.isfinite(loss) else None,
        "first_version": None if first is None else first.number,
        "first_live": None if first is None else first.live,
        "version": None if result is None else result.number,
        "live": None if result is None else result.live,
        "problem": None if update.problem is None else dict(update.problem),
    }


def _record(connection: Connection, row: RowValues) -> JobRecord:
    return JobRecord(
        id=row["job"],
        client=row["client"],
        worker=row["worker"],
        key=row["key"],
        created_at=row["created_at"],
        state=row["state"],
        progress=Progress(row["stage"], row["steps_done"], row["steps"], row["loss"]),
        first=_publication(connection, row["client"], row["first_version"], row["first_live"]),
        result=_publication(connection, row["client"], row["version"], row["live"]),
        problem=row["problem"],
    )


def _publication(connection: Connection, client: str, number: int | None, live: int | None) -> Publication | None:
    if number is None:
        return None
    found = queries.find_client(connection, client)
    if found is None:
        raise VersionCorrupt(f"a job has version {number} of client {client!r}, which has no row; restore a backup")
    return queries.recorded_publication(connection, found, number, live)
