"""Contract of `JobRecords`, and of jobs in the transaction that records their version."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import update

from service.domain.job import KEPT_S, LEASE_S, JobRecord, JobState, JobUpdate, JobVersion, Origin, Progress
from service.domain.version import LIVE, Idempotency
from service.errors import ClientDeleted, IdempotencyInFlight, JobCancelled, VersionCorrupt, WorkerLost
from service.store.catalog import jobs as catalog_jobs
from service.store.catalog.catalog import Catalog
from service.store.catalog.tables import JOBS
from service.store.ports import Database
from tests.contract.values import CLIENT, a_draft, age, digest_of

pytestmark = pytest.mark.parametrize("database", ["sqlite with the rollback journal", "postgresql"], indirect=True)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HALFWAY = Progress("adapt", 5, 10, 0.1 + 0.2)
IDS = [f"{number:032x}" for number in range(10)]


def a_job(job_id: str = IDS[0], *, client: str = CLIENT, key: str | None = None) -> JobRecord:
    return JobRecord(job_id, client, "worker-1", key, NOON)


def running(job_id: str = IDS[0]) -> JobUpdate:
    return JobUpdate(job_id, "running", HALFWAY)


def done(job_id: str = IDS[0]) -> Origin:
    return Origin(job=JobUpdate(job_id, "done", HALFWAY))


def test_a_job_is_read_back_and_shows_its_progress(catalog: Catalog) -> None:
    assert catalog.jobs.get(IDS[0]) is None
    catalog.jobs.add(a_job(key="k"))
    assert catalog.jobs.get(IDS[0]) == a_job(key="k")
    assert catalog.jobs.renew("worker-1", [running()]) == {}
    assert catalog.jobs.get(IDS[0]) == replace(a_job(key="k"), state="running", progress=HALFWAY)


def test_a_loss_that_is_no_number_is_left_out(catalog: Catalog) -> None:
    catalog.jobs.add(a_job())
    catalog.jobs.renew("worker-1", [replace(running(), progress=replace(HALFWAY, loss=float("nan")))])
    found = catalog.jobs.get(IDS[0])
    assert found is not None
    assert found.progress == replace(HALFWAY, loss=None)


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_job_that_has_ended_never_changes(catalog: Catalog, state: JobState) -> None:
    catalog.jobs.add(a_job())
    ended = JobUpdate(IDS[0], state, HALFWAY, problem={"code": "broken", "status": 503})
    assert catalog.jobs.end(ended)
    before = catalog.jobs.get(IDS[0])
    assert before == replace(a_job(), state=state, progress=HALFWAY, problem={"code": "broken", "status": 503})
    assert not catalog.jobs.end(replace(ended, state="done"))
    assert catalog.jobs.renew("worker-1", [running()]) == {IDS[0]: state}
    assert catalog.jobs.ended([IDS[0], IDS[1]]) == {IDS[0]: state, IDS[1]: None}
    assert catalog.jobs.get(IDS[0]) == before


def test_a_version_and_the_end_of_its_job_are_recorded_together(catalog: Catalog) -> None:
    catalog.jobs.add(a_job())
    first = catalog.publish(a_draft(), [LIVE], origin=Origin(job=running()))
    halfway = catalog.jobs.get(IDS[0])
    assert halfway is not None
    assert (halfway.state, halfway.progress) == ("running", HALFWAY)
    assert halfway.first == replace(first, replayed=True)
    with_first = Origin(job=JobUpdate(IDS[0], "done", HALFWAY, first=JobVersion(1, 1)))
    second = catalog.publish(a_draft(weights="second"), [], origin=with_first)
    ended = catalog.jobs.get(IDS[0])
    assert ended is not None
    assert (ended.state, ended.first, ended.result) == ("done", halfway.first, replace(second, replayed=True))
    assert (second.live, second.moves) == (1, ())


@pytest.mark.parametrize(("state", "error"), [("cancelled", JobCancelled), ("failed", WorkerLost)])
def test_a_job_that_has_ended_makes_no_version(catalog: Catalog, state: JobState, error: type[Exception]) -> None:
    catalog.jobs.add(a_job())
    catalog.jobs.end(JobUpdate(IDS[0], state, HALFWAY))
    with pytest.raises(error):
        catalog.publish(a_draft(), [LIVE], origin=done())
    assert catalog.names() == ()


def test_a_publish_that_fails_leaves_its_job_running(catalog: Catalog) -> None:
    def fail() -> None:
        raise KeyError("a blob is missing")

    catalog.jobs.add(a_job())
    with pytest.raises(KeyError):
        catalog.publish(a_draft(), [LIVE], guard=fail, origin=done())
    assert catalog.jobs.ended([IDS[0]]) == {}


def test_a_repeated_request_ends_its_job_with_the_version_of_the_first(catalog: Catalog) -> None:
    key = Idempotency("k", digest_of("body"))
    made = catalog.publish(a_draft(), [LIVE], idempotency=key)
    catalog.jobs.add(a_job())
    again = catalog.publish(a_draft(weights="other"), [LIVE], idempotency=key, origin=done())
    ended = catalog.jobs.get(IDS[0])
    assert ended is not None
    assert ended.result == again == replace(made, replayed=True)


def test_the_jobs_of_a_deleted_client_are_deleted_and_make_no_version(catalog: Catalog) -> None:
    catalog.publish(a_draft(), [LIVE])
    catalog.jobs.add(a_job())
    catalog.jobs.add(a_job(IDS[1], client="line-2"))
    catalog.delete_client(CLIENT)
    assert catalog.jobs.get(IDS[0]) is None
    assert catalog.jobs.renew("worker-1", [running(), running(IDS[1])]) == {IDS[0]: None}
    with pytest.raises(ClientDeleted):
        catalog.publish(a_draft(), [LIVE], origin=done())
    assert catalog.names() == ()


def test_one_request_with_a_key_runs_at_a_time(catalog: Catalog) -> None:
    catalog.jobs.add(a_job(key="k"))
    with pytest.raises(IdempotencyInFlight, match="'k' is still running"):
        catalog.jobs.add(a_job(IDS[1], key="k"))
    catalog.jobs.add(a_job(IDS[2], key="other"))
    catalog.jobs.add(a_job(IDS[3], client="line-2", key="k"))
    catalog.jobs.end(JobUpdate(IDS[0], "cancelled", HALFWAY))
    catalog.jobs.add(a_job(IDS[1], key="k"))
    catalog.jobs.remove(IDS[1])
    catalog.jobs.add(a_job(IDS[4], key="k"))


def test_a_job_that_is_not_renewed_fails(catalog: Catalog, database: Database) -> None:
    catalog.jobs.add(a_job())
    age(database, LEASE_S - 10, IDS[0])
    assert catalog.jobs.get(IDS[0]) == a_job()
    age(database, 11, IDS[0])
    assert catalog.jobs.get(IDS[0]) == replace(a_job(), state="failed")
    assert catalog.jobs.renew("worker-1", [running()]) == {IDS[0]: "failed"}
    with pytest.raises(WorkerLost):
        catalog.publish(a_draft(), [LIVE], origin=done())


def test_renewing_keeps_a_job_alive(catalog: Catalog, database: Database) -> None:
    catalog.jobs.add(a_job())
    age(database, LEASE_S - 10, IDS[0])
    catalog.jobs.renew("worker-1", [running()])
    age(database, LEASE_S - 10, IDS[0])
    found = catalog.jobs.get(IDS[0])
    assert found is not None
    assert found.state == "running"


def test_a_damaged_job_does_not_keep_others_of_its_worker_from_being_renewed(
    catalog: Catalog, database: Database
) -> None:
    for job_id in IDS[:2]:
        catalog.jobs.add(a_job(job_id))
        age(database, LEASE_S - 10, job_id)
    with database.writing("test") as connection:
        connection.execute(update(JOBS).where(JOBS.c.job == IDS[0]).values(steps=99))
    assert catalog.jobs.renew("worker-1", [running(IDS[0]), running(IDS[1])]) == {}
    age(database, LEASE_S - 10, IDS[1])
    found = catalog.jobs.get(IDS[1])
    assert found is not None
    assert found.state == "running"
    with pytest.raises(VersionCorrupt, match="the row of job"):
        catalog.jobs.get(IDS[0])
    with pytest.raises(VersionCorrupt):
        catalog.publish(a_draft(), [LIVE], origin=done())
    assert catalog.names() == ()


def test_a_key_is_free_again_when_its_worker_is_lost(catalog: Catalog, database: Database) -> None:
    catalog.jobs.add(a_job(key="k"))
    age(database, LEASE_S + 1, IDS[0])
    catalog.jobs.add(a_job(IDS[1], key="k"))
    assert catalog.jobs.ended([IDS[0], IDS[1]]) == {IDS[0]: "failed"}


def test_the_newest_ended_jobs_of_a_client_are_kept(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_jobs, "MAX_KEPT", 3)
    catalog.jobs.add(a_job(IDS[8]))
    catalog.jobs.add(a_job(IDS[9], client="line-2"))
    catalog.jobs.end(JobUpdate(IDS[9], "cancelled", HALFWAY))
    for job_id in IDS[:4]:
        catalog.jobs.add(a_job(job_id))
        catalog.jobs.end(JobUpdate(job_id, "cancelled", HALFWAY))
    catalog.jobs.add(a_job(IDS[4]))
    kept = [number for number, job_id in enumerate(IDS) if catalog.jobs.get(job_id) is not None]
    assert kept == [2, 3, 4, 8, 9]


def test_ended_jobs_are_kept_for_a_while(catalog: Catalog, database: Database) -> None:
    for job_id in IDS[:2]:
        catalog.jobs.add(a_job(job_id))
        catalog.jobs.end(JobUpdate(job_id, "cancelled", HALFWAY))
    age(database, KEPT_S - 10, IDS[0])
    age(database, KEPT_S + 10, IDS[1])
    catalog.jobs.add(a_job(IDS[2], client="line-2"))
    assert [catalog.jobs.get(job_id) is not None for job_id in IDS[:3]] == [True, False, True]


def test_a_backup_has_no_jobs(catalog: Catalog, tmp_path: Path) -> None:
    catalog.publish(a_draft(), [LIVE])
    catalog.jobs.add(a_job())
    catalog.export(tmp_path / "copy.sqlite3")
    with catalog.copy_in(tmp_path / "copy.sqlite3") as copy:
        assert copy.jobs.get(IDS[0]) is None
        assert copy.names() == (CLIENT,)
