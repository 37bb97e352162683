"""A process that has others predict and adapt: what it sends, what it answers, and what it does if they are lost."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime

import pytest

from models.errors import AdaptationDiverged, AnoleError, ImageFormatUnsupported
from service.cluster.remote import (
    AdaptRequest,
    PredictAnswer,
    PredictRequest,
    ProcessLost,
    RemoteAdaptation,
    RemotePrediction,
)
from service.cluster.replicas import Adapter, Predictor
from service.domain.audit import Actor, acting_as, current_actor
from service.domain.job import JobRecord, JobUpdate, JobVersion, Progress
from service.domain.prediction import ImagePrediction
from service.domain.version import LIVE, ServedVersion
from service.errors import (
    DeadlinePassed,
    JobCancelled,
    LabelCountMismatch,
    NothingLive,
    Overloaded,
    UnknownAlias,
    UnknownClient,
    WorkerLost,
)
from service.runtime.adapt_queue import JobControl
from service.runtime.decoder import Upload
from service.store.version_store import Reference, VersionStore
from service.usecases.adapt_command import AdaptCommand, AdaptOutcome
from service.usecases.jobs import Jobs
from tests.unit.service.fake_jobs import MemoryJobs
from tests.unit.service.fakes import FakeAdaptation, FakeClients, FakeServices

PNG = Upload("a.png", b"\x89PNG")
COMMAND = AdaptCommand("line", (PNG, PNG), ("x", "y"), publish="always")
SERVED = ServedVersion("line", 3, ("x", "y"), "tiny", "m" * 64, "w" * 64, None)
ANSWER = PredictAnswer(SERVED, (ImagePrediction("a.png", "x", 1.0, {"x": 1.0, "y": 0.0}, None, None),), 0.01)


class Store(VersionStore):
    """Has one version, or the error that a test sets instead."""

    def __init__(self) -> None:
        self.found: ServedVersion | AnoleError = SERVED

    def served(self, references: Sequence[Reference]) -> list[ServedVersion | AnoleError]:
        return [self.found for _ in references]


class Sent:
    """Answers with what a test sets, one after another; a ProcessLost is raised."""

    def __init__(self, *answers: PredictAnswer | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[PredictRequest, str]] = []

    async def __call__(self, request: PredictRequest, identity: str) -> PredictAnswer | AnoleError:
        self.requests.append((copy.deepcopy(request), identity))
        answer = self.answers.pop(0)
        if isinstance(answer, AnoleError | PredictAnswer):
            return copy.deepcopy(answer)
        raise answer


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join()
    made.close()


def test_a_prediction_is_sent_with_its_files_and_the_identity_of_its_version(loop: asyncio.AbstractEventLoop) -> None:
    sent = Sent(ANSWER)
    outcome = RemotePrediction(Store(), sent, loop).submit("line", [PNG], "3", "caller").result()
    assert sent.requests == [(PredictRequest("line", (PNG,), "3", False, "caller"), SERVED.identity)]
    assert (outcome.served, outcome.predictions, outcome.seconds) == (SERVED, ANSWER.predictions, 0.01)
    assert (outcome.command.reference, outcome.command.uploads) == ("3", (PNG,))


def test_the_identity_of_a_version_differs_for_a_later_client_of_that_name() -> None:
    created = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2)]
    versions = [
        ServedVersion("line", 1, ("x", "y"), "tiny", "m" * 64, "w" * 64, None, client_created_at=at) for at in created
    ]
    assert len({each.identity for each in versions}) == 2
    assert all("line" not in each.identity for each in versions)


def test_a_request_without_a_version_is_not_sent(loop: asyncio.AbstractEventLoop) -> None:
    store, sent = Store(), Sent()
    prediction = RemotePrediction(store, sent, loop)
    store.found = UnknownClient("line")
    with pytest.raises(UnknownClient, match="there is no client 'line'"):
        prediction.run("line", [PNG])
    store.found = UnknownAlias("no alias")
    with pytest.raises(NothingLive):
        prediction.run("line", [PNG], LIVE)
    assert sent.requests == []


@pytest.mark.parametrize(
    "error", [UnknownClient("line"), Overloaded("busy", 7), AdaptationDiverged(3, (1,)), ImageFormatUnsupported("a: b")]
)
def test_errors_of_the_other_process_arrive_as_they_were_raised(
    loop: asyncio.AbstractEventLoop, error: AnoleError
) -> None:
    with pytest.raises(type(error)) as raised:
        RemotePrediction(Store(), Sent(error), loop).run("line", [PNG])
    assert (str(raised.value), vars(raised.value)) == (str(error), vars(error))


def test_a_prediction_is_sent_again_if_its_process_is_lost(loop: asyncio.AbstractEventLoop) -> None:
    sent = Sent(ProcessLost("died"), ProcessLost("died"), ANSWER)
    assert RemotePrediction(Store(), sent, loop).run("line", [PNG]).version == 3
    lost = Sent(*[ProcessLost("died")] * 3)
    with pytest.raises(Overloaded, match="was lost") as raised:
        RemotePrediction(Store(), lost, loop).run("line", [PNG])
    assert (raised.value.retry_after_s, len(lost.requests)) == (1, 3)


class Cluster:
    """A process that adapts, on jobs that it shares with this one."""

    def __init__(self) -> None:
        self.services = FakeServices()
        self.adapter = Adapter(self.services)
        self.records = self.services.kept_jobs
        self.requests: list[AdaptRequest] = []

    async def adapt(self, request: AdaptRequest) -> AsyncIterator[AdaptOutcome | AnoleError | None]:
        self.requests.append(request)
        async for event in self.adapter.adapt(copy.deepcopy(request)):
            yield copy.deepcopy(event)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.services.jobs.close()


def test_an_adaptation_is_a_job_of_the_other_process(loop: asyncio.AbstractEventLoop, cluster: Cluster) -> None:
    adaptation = RemoteAdaptation(Jobs(cluster.records), cluster.adapt, loop)
    with acting_as(Actor("prefix", "line engineer")):
        outcome = adaptation.submit(COMMAND, JobControl(30)).result()
    assert (outcome.version.number, outcome.published) == (1, True)
    (record,) = cluster.records.kept.values()
    (request,) = cluster.requests
    assert record.state == "done"
    assert (request.command.job, request.actor) == (record.id, Actor("prefix", "line engineer"))


def test_the_other_process_acts_for_the_caller(loop: asyncio.AbstractEventLoop, cluster: Cluster) -> None:
    actors: list[Actor] = []
    submit = cluster.services.adaptation.submit

    class Noting(FakeAdaptation):
        def submit(self, command: AdaptCommand, control: JobControl) -> object:  # type: ignore[override]
            actors.append(current_actor())
            return submit(command, control)

    cluster.services.adaptation = Noting(FakeClients())
    adaptation = RemoteAdaptation(Jobs(cluster.records), cluster.adapt, loop)
    with acting_as(Actor("prefix")):
        adaptation.submit(COMMAND, JobControl(30)).result()
    assert actors == [Actor("prefix")]


Events = Callable[[AdaptRequest], AsyncIterator[AdaptOutcome | AnoleError | None]]


def events(*made: AdaptOutcome | Exception | None, then: threading.Event | None = None) -> Events:
    """Return a process that yields these events, raises what is no AnoleError, and waits before it ends."""

    async def adapt(_request: AdaptRequest) -> AsyncIterator[AdaptOutcome | AnoleError | None]:
        for event in made:
            if isinstance(event, Exception) and not isinstance(event, AnoleError):
                raise event
            yield event
        if then is not None:
            await asyncio.to_thread(then.wait, 30)

    return adapt


def test_errors_before_and_after_acceptance_are_raised_where_they_belong(loop: asyncio.AbstractEventLoop) -> None:
    jobs = Jobs(MemoryJobs(lambda *_: None))  # type: ignore[arg-type]
    with pytest.raises(LabelCountMismatch, match="3 labels"):
        RemoteAdaptation(jobs, events(LabelCountMismatch("3 labels")), loop).submit(COMMAND, JobControl(30))
    accepted = RemoteAdaptation(jobs, events(None, JobCancelled("cancelled")), loop).submit(COMMAND, JobControl(30))
    with pytest.raises(JobCancelled):
        accepted.result()
    with pytest.raises(Overloaded, match="was lost"):
        RemoteAdaptation(jobs, events(ProcessLost("died")), loop).submit(COMMAND, JobControl(30))
    broken = RemoteAdaptation(jobs, events(None), loop).submit(COMMAND, JobControl(30))
    with pytest.raises(RuntimeError, match="without an outcome"):
        broken.result()


def test_an_adaptation_that_no_process_accepts_in_time_is_given_up(loop: asyncio.AbstractEventLoop) -> None:
    jobs, never = Jobs(MemoryJobs(lambda *_: None)), threading.Event()  # type: ignore[arg-type]
    with pytest.raises(DeadlinePassed, match="no process accepted"):
        RemoteAdaptation(jobs, events(then=never), loop).submit(COMMAND, JobControl(0.01))
    never.set()


@pytest.fixture
def kept() -> MemoryJobs:
    """A job `j` of another process, whose version is published as the first of a client."""
    clients = FakeClients()
    FakeAdaptation(clients).run(COMMAND)
    records = MemoryJobs(clients.publication)
    records.add(JobRecord("j", "line", "w", None, datetime(2026, 1, 1, tzinfo=UTC)))
    return records


def state_of(records: MemoryJobs) -> str:
    return records.kept["j"].state


JOB = AdaptCommand("line", (PNG, PNG), ("x", "y"), job="j")
DONE = JobUpdate("j", "done", Progress(), result=JobVersion(1, 1))


def test_the_job_decides_whether_a_stopped_adaptation_makes_a_version(
    loop: asyncio.AbstractEventLoop, kept: MemoryJobs
) -> None:
    for ended_before in (False, True):
        control, end = JobControl(30), threading.Event()
        RemoteAdaptation(Jobs(kept), events(None, then=end), loop).submit(JOB, control)
        if ended_before:
            kept.kept["j"] = JobRecord("j", "line", "w", None, datetime(2026, 1, 1, tzinfo=UTC))
            assert kept.end(DONE)
        assert control.stop(DeadlinePassed("late", 1)) is not ended_before
        assert kept.kept["j"].state == ("done" if ended_before else "cancelled")
        end.set()


def test_a_job_whose_process_is_lost_has_failed_unless_it_had_made_its_version(
    loop: asyncio.AbstractEventLoop, kept: MemoryJobs
) -> None:
    adaptation = RemoteAdaptation(Jobs(kept), events(None, ProcessLost("died")), loop)
    with pytest.raises(WorkerLost):
        adaptation.submit(JOB, JobControl(30)).result()
    assert state_of(kept) == "failed"
    kept.kept["j"] = JobRecord("j", "line", "w", None, datetime(2026, 1, 1, tzinfo=UTC))
    assert kept.end(DONE)
    assert adaptation.submit(JOB, JobControl(30)).result().version.number == 1
    assert state_of(kept) == "done"


def test_a_replica_returns_predictions_and_errors(cluster: Cluster, loop: asyncio.AbstractEventLoop) -> None:
    cluster.services.adaptation.run(COMMAND)
    predictor = Predictor(cluster.services)

    async def predict(request: PredictRequest, _identity: str) -> PredictAnswer | AnoleError:
        return copy.deepcopy(await predictor.predict(copy.deepcopy(request)))

    plain, explained = (RemotePrediction(Store(), predict, loop, explain=explain) for explain in (False, True))
    assert [each.explanation for each in plain.run("line", [PNG]).predictions] == [None]
    assert [each.explanation is None for each in explained.run("line", [PNG]).predictions] == [False]
    with pytest.raises(ImageFormatUnsupported, match=r"b\.txt"):
        plain.run("line", [Upload("b.txt", b"text")])
