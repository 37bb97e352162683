"""Repeated requests with an Idempotency-Key make one version."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Literal

import pytest

from service.domain.job import JobUpdate, JobVersion, Progress
from service.domain.version import Idempotency, Publication
from service.errors import IdempotencyInFlight, IdempotencyMismatch, Overloaded
from service.runtime.adapt_queue import AdaptQueue, JobControl
from service.runtime.decoder import DecodedImage, Upload
from service.usecases.adapt import Adaptation
from service.usecases.adapt_command import AcceptedRequest, AdaptCommand, AdaptOutcome, Decoding
from service.usecases.idempotency import IdempotentAdaptation
from service.usecases.jobs import Jobs
from tests.unit.service.fake_jobs import MemoryJobs
from tests.unit.service.fakes import FakeAdaptation, FakeClients

KEY = Idempotency("k", "1" * 64)
COMMAND = AdaptCommand("line", (Upload("a", b"a"), Upload("b", b"b")), ("x", "y"), idempotency=KEY)


class FakeStore(Adaptation):
    """Records which key made which version, as the store does in the transaction that publishes."""

    def __init__(self) -> None:
        self._adaptation = FakeAdaptation(FakeClients())
        self.made: dict[tuple[str, str], tuple[str, Publication]] = {}
        self.runs = 0
        self.during = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def recall(self, client: str, idempotency: Idempotency) -> Publication | None:
        body_digest, made = self.made.get((client, idempotency.key), (idempotency.body_digest, None))
        if body_digest != idempotency.body_digest:
            raise IdempotencyMismatch("the key was used with another body")
        return made

    def accept(self, command: AdaptCommand, control: JobControl) -> AcceptedRequest:
        images: Future[list[DecodedImage]] = Future()
        images.set_result([])
        return AcceptedRequest(command, command.labels, (), Decoding(images))

    def run(self, accepted: AcceptedRequest, control: JobControl) -> AdaptOutcome:
        command = accepted.command
        self.runs += 1
        self.during.set()
        assert self.go_on.wait(30)
        outcome = self._adaptation.run(command)
        if command.idempotency is not None:
            moves = self._adaptation.clients.moves[command.client][-1:] if outcome.published else []
            made = Publication(outcome.version, tuple(moves), outcome.live)
            self.made[command.client, command.idempotency.key] = (command.idempotency.body_digest, made)
        return outcome


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def records(store: FakeStore) -> MemoryJobs:
    def publication(client: str, made: JobVersion) -> Publication:
        (found,) = (
            publication
            for (owner, _), (_, publication) in store.made.items()
            if (owner, publication.version.number) == (client, made.number)
        )
        return found

    return MemoryJobs(publication)


def process_of(store: FakeStore, records: MemoryJobs, queue: AdaptQueue | None = None) -> IdempotentAdaptation:
    jobs = Jobs(records)
    jobs.close()
    return IdempotentAdaptation(store, store.recall, queue or AdaptQueue(2), jobs)


@pytest.fixture
def once(store: FakeStore, records: MemoryJobs) -> IdempotentAdaptation:
    return process_of(store, records)


@pytest.mark.parametrize("publish", ["always", "never"])
def test_a_repeated_request_gets_the_first_response_and_makes_no_version(
    store: FakeStore, once: IdempotentAdaptation, publish: Literal["always", "never"]
) -> None:
    command = replace(COMMAND, publish=publish)
    assert once.run(command) == once.run(command)
    assert store.runs == 1


def test_without_a_key_every_request_adapts_and_is_no_job(once: IdempotentAdaptation, records: MemoryJobs) -> None:
    command = replace(COMMAND, idempotency=None)
    assert [once.run(command).version.number for _ in range(2)] == [1, 2]
    assert records.kept == {}


def test_a_repeated_request_is_not_another_job(once: IdempotentAdaptation, records: MemoryJobs) -> None:
    once.run(COMMAND)
    (first,) = records.kept
    once.run(COMMAND)
    assert list(records.kept) == [first]


def test_a_repeated_request_that_was_not_published_is_not_reported_as_published(
    store: FakeStore, once: IdempotentAdaptation
) -> None:
    once.run(replace(COMMAND, publish="always", idempotency=Idempotency("earlier", "1" * 64)))
    held = replace(COMMAND, publish="never")
    once.run(held)
    again = once.run(held)
    assert (again.version.number, again.published, again.live) == (2, False, 1)


def test_clients_can_use_the_same_key(store: FakeStore, once: IdempotentAdaptation) -> None:
    once.run(COMMAND)
    assert once.run(replace(COMMAND, client="other")).version.number == 1
    assert store.runs == 2


def test_the_same_key_with_another_body_is_rejected(store: FakeStore, once: IdempotentAdaptation) -> None:
    once.run(COMMAND)
    with pytest.raises(IdempotencyMismatch):
        once.run(replace(COMMAND, idempotency=Idempotency("k", "2" * 64)))
    assert store.runs == 1


def test_a_repeated_request_is_rejected_while_the_first_runs_and_gets_its_response_later(
    store: FakeStore, once: IdempotentAdaptation
) -> None:
    store.go_on.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(once.run, COMMAND)
        assert store.during.wait(30)
        with pytest.raises(IdempotencyInFlight, match="still running"):
            once.run(COMMAND)
        store.go_on.set()
        assert once.run(replace(COMMAND, idempotency=Idempotency("other", "1" * 64))).version.number >= 1
        assert first.result(30) == once.run(COMMAND)


def test_clients_can_use_the_same_key_at_the_same_time(store: FakeStore, once: IdempotentAdaptation) -> None:
    store.go_on.clear()
    first = once.submit(COMMAND, JobControl())
    assert store.during.wait(30)
    second = once.submit(replace(COMMAND, client="other"), JobControl())
    store.go_on.set()
    assert [first.result(30).version.draft.client, second.result(30).version.draft.client] == ["line", "other"]


def test_a_key_that_was_rejected_can_be_sent_again(store: FakeStore, once: IdempotentAdaptation) -> None:
    first = once.run(COMMAND)
    for _ in range(2):
        with pytest.raises(IdempotencyMismatch):
            once.run(replace(COMMAND, idempotency=Idempotency("k", "2" * 64)))
    assert once.run(COMMAND) == first


def test_a_key_can_be_sent_again_after_the_queue_rejected_it(store: FakeStore, records: MemoryJobs) -> None:
    closed = AdaptQueue()
    closed.close()
    rejecting = process_of(store, records, closed)
    for _ in range(2):
        with pytest.raises(Overloaded):
            rejecting.run(COMMAND)


def test_a_failed_request_can_be_sent_again_with_its_key(records: MemoryJobs) -> None:
    class Failing(FakeStore):
        def run(self, accepted: AcceptedRequest, control: JobControl) -> AdaptOutcome:
            raise ZeroDivisionError

    failing = process_of(Failing(), records)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            failing.run(COMMAND)


def test_a_request_that_runs_in_another_process_is_rejected_until_that_process_is_lost(
    store: FakeStore, once: IdempotentAdaptation, records: MemoryJobs
) -> None:
    other = process_of(store, records)
    store.go_on.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(once.run, COMMAND)
        assert store.during.wait(30)
        with pytest.raises(IdempotencyInFlight, match="still running"):
            other.run(COMMAND)
        (job_id,) = records.kept
        records.end(JobUpdate(job_id, "failed", Progress()))
        second = other.submit(COMMAND, JobControl())
        store.go_on.set()
        assert second.result(30).version.number >= 1
        assert first.result(30).version.number >= 1


@pytest.mark.parametrize("job", [None, "1" * 32])
def test_a_repeated_request_gets_the_first_response_if_the_first_ends_while_its_key_is_looked_up(
    store: FakeStore, once: IdempotentAdaptation, records: MemoryJobs, job: str | None
) -> None:
    first: list[AdaptOutcome] = []

    def recall(client: str, idempotency: Idempotency) -> Publication | None:
        made = store.recall(client, idempotency)
        if not first:
            first.append(once.run(COMMAND))
        return made

    jobs = Jobs(records)
    jobs.close()
    repeated = IdempotentAdaptation(store, recall, AdaptQueue(2), jobs)
    again = repeated.submit(replace(COMMAND, job=job), JobControl())
    assert again.result(30) == first[0]
    assert store.runs == 1


def test_a_repeated_request_that_runs_as_a_job_is_done_at_once(
    store: FakeStore, once: IdempotentAdaptation, records: MemoryJobs
) -> None:
    first = once.run(COMMAND)
    again = once.submit(replace(COMMAND, job="1" * 32), JobControl())
    assert again.result(0) == first
    assert "1" * 32 in records.kept
