"""The Python client follows adaptations as jobs: progress, results and cancellation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest

from service.client import AdaptOptions, AdaptResponse, AsyncClient, Client, Job, ServiceProblem, ServiceUnreachable
from service.http.app import create_app
from service.settings import load_settings
from tests.in_process import InProcess, Web, started
from tests.unit.service.fakes import FakeServices
from tests.unit.service.scripted_job import DONE, PATH, PROBLEM, SAMPLES, Scripted, adapted, event, job


@pytest.fixture(params=["blocking", "async"])
def adapt(request: pytest.FixtureRequest) -> Callable[[Scripted, Callable[[Job], object]], AdaptResponse]:
    """Return a function that adapts with the blocking or the asynchronous client at a scripted service."""
    if request.param == "blocking":
        return lambda service, on_progress: service.adapt(on_progress)
    return lambda service, on_progress: anyio.run(service.adapt_async, on_progress)


def raises(error: BaseException) -> Callable[[Job], object]:
    def on_progress(_: Job) -> None:
        raise error

    return on_progress


def test_on_progress_gets_every_event_and_the_version_is_returned(adapt: Any) -> None:
    events = event("progress", job(stage="decode")) + b": nothing new\n\n" + event("progress", job(done=1))
    service, seen = Scripted(events, event("done", DONE)), list[Job]()
    made = adapt(service, seen.append)
    assert (made.version, made.classes) == (1, ["bad\u2028", "good"])
    assert [(job.stage, job.steps.done, job.steps.of, job.steps.loss, job.first) for job in seen] == [
        ("decode", 0, 2, None, None),
        ("adapt", 1, 2, 0.75, None),
        ("store", 2, 2, 0.75, None),
    ]
    assert service.requests == ["POST /adapt", f"GET {PATH}/events"]
    assert service.prefer == "respond-async"


@pytest.mark.parametrize("size", [1, 7])
def test_events_may_arrive_in_pieces_and_with_other_line_ends(adapt: Any, size: int) -> None:
    whole = (event("progress", job(done=1)) + event("done", DONE)).replace(b"\n", b"\r\n")
    service, seen = Scripted(*(whole[at : at + size] for at in range(0, len(whole), size))), list[Job]()
    assert adapt(service, seen.append).version == 1
    assert [job.steps.done for job in seen] == [1, 2]


def test_the_first_version_is_reported_as_soon_as_it_is_made(adapt: Any) -> None:
    with_first = job(first=adapted())
    done = job("done", "store", 2, first=adapted(), result=adapted(2))
    service = Scripted(event("first", adapted()), event("progress", with_first), event("done", done))
    seen: list[Job] = []
    assert adapt(service, seen.append).version == 2
    assert [job.first.version for job in seen if job.first] == [1, 1]


@pytest.mark.parametrize(
    "broken",
    [[httpx.ReadError("reset")], [httpx.ReadTimeout("silent")], [], [b"event: progress\ndata: <html>\n\n"]],
    ids=["reset", "silent", "ended", "no job"],
)
def test_the_job_is_polled_when_its_event_stream_ends_early(adapt: Any, broken: Any) -> None:
    service = Scripted(event("progress", job()), *broken, polls=[job(done=1), httpx.ConnectError("away"), DONE])
    seen: list[Job] = []
    assert adapt(service, seen.append).version == 1
    assert [job.steps.done for job in seen] == [0, 1, 2]
    assert service.requests[2:] == [f"GET {PATH}"] * 3
    assert service.slept == [1.0, 1.0]


def test_after_five_unanswered_polls_the_client_gives_up_and_tries_to_cancel(adapt: Any) -> None:
    away = httpx.ConnectError("away")
    service = Scripted(polls=[away] * 9, cancelling=away)
    with pytest.raises(ServiceUnreachable) as caught:
        adapt(service, lambda _: None)
    assert service.requests[2:] == [f"GET {PATH}"] * 5 + [f"DELETE {PATH}"]
    assert caught.value.__notes__[0].startswith("job 5f1c could not be cancelled: ")


def test_a_job_that_no_longer_exists_is_a_problem(adapt: Any) -> None:
    gone = (404, {**PROBLEM, "status": 404, "code": "unknown_job"})
    with pytest.raises(ServiceProblem) as caught:
        adapt(Scripted(polls=[gone]), lambda _: None)
    assert caught.value.code == "unknown_job"


def test_a_failed_job_raises_the_same_problem_as_the_blocking_request(adapt: Any) -> None:
    service = Scripted(event("failed", job("failed", "decode", problem=PROBLEM)))
    with pytest.raises(ServiceProblem) as caught:
        adapt(service, lambda _: None)
    assert (caught.value.status, caught.value.code, caught.value.request_id) == (503, "overloaded", "5f1c")
    assert service.requests[-1] == f"GET {PATH}/events"


def test_a_job_cancelled_by_another_caller_is_a_problem(adapt: Any) -> None:
    with pytest.raises(ServiceProblem) as caught:
        adapt(Scripted(event("cancelled", job("cancelled"))), lambda _: None)
    assert (caught.value.status, caught.value.code) == (409, "job_cancelled")


def test_a_job_that_is_done_without_a_version_is_an_error(adapt: Any) -> None:
    with pytest.raises(ServiceUnreachable, match="without a result"):
        adapt(Scripted(event("done", job("done"))), lambda _: None)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_in_on_progress_cancels_the_job(adapt: Any, error: type[BaseException]) -> None:
    service = Scripted(event("progress", job()), event("done", DONE))
    with pytest.raises(error) as caught:
        adapt(service, raises(error()))
    assert service.requests[-1] == f"DELETE {PATH}"
    assert caught.value.__notes__ == ["job 5f1c was cancelled and created no version"]


def test_an_interrupt_between_events_cancels_the_job() -> None:
    service = Scripted(event("progress", job()), KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt) as caught:
        service.adapt(lambda _: None)
    assert service.requests[-1] == f"DELETE {PATH}"
    assert caught.value.__notes__ == ["job 5f1c was cancelled and created no version"]


def test_cancelling_the_awaiting_task_cancels_the_job() -> None:
    service = Scripted(event("progress", job()), event("done", DONE))

    async def talk() -> None:
        with anyio.CancelScope() as scope:

            async def on_progress(_: Job) -> None:
                scope.cancel()
                await anyio.sleep_forever()

            await service.adapt_async(on_progress)
        assert scope.cancelled_caught

    anyio.run(talk)
    assert service.requests[-1] == f"DELETE {PATH}"


@pytest.mark.parametrize(
    ("cancelling", "note"),
    [
        (DONE, "had already created version 1 and could not be cancelled"),
        (job("running", "store", 2), "is already recording its version"),
        (job("failed", problem=PROBLEM), "had already failed"),
        (job("cancelled", first=adapted()), "created no version; version 1, created first, is kept"),
        ((503, PROBLEM), "could not be cancelled: overloaded: d"),
    ],
    ids=["done", "recording", "failed", "with a first", "overloaded"],
)
def test_the_exception_has_a_note_about_the_cancellation(adapt: Any, cancelling: Any, note: str) -> None:
    service = Scripted(event("progress", job()), cancelling=cancelling)
    with pytest.raises(ValueError, match="enough") as caught:
        adapt(service, raises(ValueError("enough")))
    assert note in caught.value.__notes__[0]


def test_a_job_of_the_real_application_is_followed(web: Web, in_process: InProcess) -> None:
    seen: list[Job] = []
    with Client("http://127.0.0.1", transport=in_process) as anole:
        options = AdaptOptions(first="prototypes")
        made = anole.adapt("line", SAMPLES, options, on_progress=seen.append, idempotency_key="once")
        assert made.version == 1
        web.services.adaptation.raises = MemoryError()
        with pytest.raises(ServiceProblem, match="overloaded"):
            anole.adapt("line", SAMPLES, on_progress=seen.append)
        with pytest.raises(ServiceProblem, match="field_invalid"):
            anole.adapt("line", SAMPLES, AdaptOptions(mode="other"), on_progress=seen.append)
    assert seen
    command = web.services.adaptation.commands[0]
    assert (command.first, command.idempotency.key) == ("prototypes", "once")


def test_jobs_of_a_service_of_several_workers_are_followed() -> None:
    services = FakeServices()
    seen: list[Job] = []

    async def talk(transport: httpx.AsyncBaseTransport) -> AdaptResponse:
        async with AsyncClient("http://127.0.0.1", transport=transport) as anole:
            return await anole.adapt("line", SAMPLES, on_progress=seen.append)

    with started(create_app(load_settings(workers=2), lambda _: services), services) as web:
        with Client("http://127.0.0.1", transport=InProcess(web)) as anole:
            assert anole.adapt("line", SAMPLES, on_progress=seen.append).version == 1
        assert [job.state for job in seen][-1:] == ["done"]
        seen.clear()
        assert web.portal.call(talk, web.transport).version == 2
    assert [job.state for job in seen][-1:] == ["done"]


def test_a_job_is_followed_by_its_number_until_it_is_over() -> None:
    service = Scripted(event("progress", job()), event("done", DONE))
    with Client(transport=service.transport) as anole:
        assert [state.state for state in anole.follow_job("5f1c")] == ["running", "done"]
        assert anole.cancel_job("5f1c").state == "cancelled"
