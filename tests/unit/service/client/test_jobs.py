"""Adaptations that the Python client follows: what is told, what comes of them, and how they are ended early."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest

from service.client.client import AsyncClient, Client
from service.client.types import Adapted, AdaptOptions, AdaptProgress, ServiceProblem, ServiceUnreachable
from service.http.app import create_app
from service.settings import load_settings
from tests.in_process import InProcess, Web, started
from tests.unit.service.fakes import FakeServices
from tests.unit.service.scripted_job import DONE, PATH, PROBLEM, SAMPLES, Scripted, adapted, event, job


@pytest.fixture(params=["waiting", "awaiting"])
def adapt(request: pytest.FixtureRequest) -> Callable[[Scripted, Callable[[AdaptProgress], object]], Adapted]:
    """Adapts at a scripted service with either client."""
    if request.param == "waiting":
        return lambda service, told: service.adapt(told)
    return lambda service, told: anyio.run(service.adapt_awaited, told)


def stopping(error: BaseException) -> Callable[[AdaptProgress], object]:
    def told(_: AdaptProgress) -> None:
        raise error

    return told


def test_who_wants_to_be_told_hears_of_every_event_and_gets_the_version(adapt: Any) -> None:
    events = event("progress", job(stage="decode")) + b": nothing new\n\n" + event("progress", job(done=1))
    service, told = Scripted(events, event("done", DONE)), list[AdaptProgress]()
    made = adapt(service, told.append)
    assert (made.version, made.classes) == (1, ("bad\u2028", "good"))
    assert told == [
        AdaptProgress("decode", 0, 2, None, None),
        AdaptProgress("adapt", 1, 2, 0.75, None),
        AdaptProgress("store", 2, 2, 0.75, None),
    ]
    assert service.asked == ["POST /adapt", f"GET {PATH}/events"]
    assert service.prefer == "respond-async"


@pytest.mark.parametrize("size", [1, 7])
def test_events_may_come_in_pieces_and_with_other_line_ends(adapt: Any, size: int) -> None:
    whole = (event("progress", job(done=1)) + event("done", DONE)).replace(b"\n", b"\r\n")
    service, told = Scripted(*(whole[at : at + size] for at in range(0, len(whole), size))), list[AdaptProgress]()
    assert adapt(service, told.append).version == 1
    assert [progress.steps_done for progress in told] == [1, 2]


def test_a_version_by_prototypes_is_told_as_soon_as_it_is_made(adapt: Any) -> None:
    with_first = job(first=adapted())
    done = job("done", "store", 2, first=adapted(), result=adapted(2))
    service = Scripted(event("first", adapted()), event("progress", with_first), event("done", done))
    told: list[AdaptProgress] = []
    assert adapt(service, told.append).version == 2
    assert [progress.first.version for progress in told if progress.first] == [1, 1]


@pytest.mark.parametrize(
    "broken",
    [[httpx.ReadError("reset")], [httpx.ReadTimeout("silent")], [], [b"event: progress\ndata: <html>\n\n"]],
    ids=["reset", "silent", "ended", "no job"],
)
def test_where_the_events_break_off_the_job_is_looked_at_until_it_is_over(adapt: Any, broken: Any) -> None:
    service = Scripted(event("progress", job()), *broken, looks=[job(done=1), httpx.ConnectError("away"), DONE])
    told: list[AdaptProgress] = []
    assert adapt(service, told.append).version == 1
    assert [progress.steps_done for progress in told] == [0, 1, 2]
    assert service.asked[2:] == [f"GET {PATH}"] * 3
    assert service.waited == [1.0, 1.0]


def test_a_service_that_stays_away_is_given_up_and_the_job_is_cancelled_if_that_can_be(adapt: Any) -> None:
    away = httpx.ConnectError("away")
    service = Scripted(looks=[away] * 9, cancelling=away)
    with pytest.raises(ServiceUnreachable) as caught:
        adapt(service, lambda _: None)
    assert service.asked[2:] == [f"GET {PATH}"] * 5 + [f"DELETE {PATH}"]
    assert caught.value.__notes__[0].startswith("job 5f1c could not be cancelled: ")


def test_a_job_that_is_not_there_any_more_is_a_problem(adapt: Any) -> None:
    gone = (404, {**PROBLEM, "status": 404, "code": "unknown_job"})
    with pytest.raises(ServiceProblem) as caught:
        adapt(Scripted(looks=[gone]), lambda _: None)
    assert caught.value.code == "unknown_job"


def test_a_job_that_fails_raises_what_the_plain_call_would(adapt: Any) -> None:
    service = Scripted(event("failed", job("failed", "decode", problem=PROBLEM)))
    with pytest.raises(ServiceProblem) as caught:
        adapt(service, lambda _: None)
    assert (caught.value.status, caught.value.code, caught.value.request_id) == (503, "overloaded", "5f1c")
    assert service.asked[-1] == f"GET {PATH}/events"


def test_a_job_that_somebody_else_cancelled_is_a_problem(adapt: Any) -> None:
    with pytest.raises(ServiceProblem) as caught:
        adapt(Scripted(event("cancelled", job("cancelled"))), lambda _: None)
    assert (caught.value.status, caught.value.code) == (409, "job_cancelled")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_whoever_is_told_may_end_it_by_raising(adapt: Any, error: type[BaseException]) -> None:
    service = Scripted(event("progress", job()), event("done", DONE))
    with pytest.raises(error) as caught:
        adapt(service, stopping(error()))
    assert service.asked[-1] == f"DELETE {PATH}"
    assert caught.value.__notes__ == ["job 5f1c was cancelled, and made no version"]


def test_an_interrupt_while_nothing_comes_cancels_the_job() -> None:
    service = Scripted(event("progress", job()), KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt) as caught:
        service.adapt(lambda _: None)
    assert service.asked[-1] == f"DELETE {PATH}"
    assert caught.value.__notes__ == ["job 5f1c was cancelled, and made no version"]


def test_to_cancel_who_awaits_cancels_the_job() -> None:
    service = Scripted(event("progress", job()), event("done", DONE))

    async def talk() -> None:
        with anyio.CancelScope() as scope:

            async def told(_: AdaptProgress) -> None:
                scope.cancel()
                await anyio.sleep_forever()

            await service.adapt_awaited(told)
        assert scope.cancelled_caught

    anyio.run(talk)
    assert service.asked[-1] == f"DELETE {PATH}"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (DONE, "was over before it could be cancelled, and made version 1"),
        (job("running", "store", 2), "is recording its version already"),
        (job("failed", problem=PROBLEM), "had failed before it could be cancelled"),
        (job("cancelled", first=adapted()), "made no version after its first, 1, which stays"),
        ((503, PROBLEM), "could not be cancelled: overloaded: d"),
    ],
    ids=["done", "recording", "failed", "with a first", "overloaded"],
)
def test_the_error_says_what_came_of_cancelling(adapt: Any, answer: Any, said: str) -> None:
    service = Scripted(event("progress", job()), cancelling=answer)
    with pytest.raises(ValueError, match="enough") as caught:
        adapt(service, stopping(ValueError("enough")))
    assert said in caught.value.__notes__[0]


def test_the_service_itself_is_followed_to_the_version_and_to_its_problems(web: Web, in_process: InProcess) -> None:
    told: list[AdaptProgress] = []
    with Client("http://127.0.0.1", transport=in_process) as anole:
        options = AdaptOptions(first="prototypes")
        assert anole.adapt("line", SAMPLES, options, told=told.append, idempotency_key="once").version == 1
        web.services.adaptation.raises = MemoryError()
        with pytest.raises(ServiceProblem, match="overloaded"):
            anole.adapt("line", SAMPLES, told=told.append)
        with pytest.raises(ServiceProblem, match="field_invalid"):
            anole.adapt("line", SAMPLES, AdaptOptions(mode="other"), told=told.append)
    assert told
    command = web.services.adaptation.commands[0]
    assert (command.first, command.idempotency.key) == ("prototypes", "once")


def test_a_service_of_several_workers_answers_with_the_version_and_tells_nothing() -> None:
    services = FakeServices()
    told: list[AdaptProgress] = []

    async def talk(transport: httpx.AsyncBaseTransport) -> Adapted:
        async with AsyncClient("http://127.0.0.1", transport=transport) as anole:
            return await anole.adapt("line", SAMPLES, told=told.append)

    with started(create_app(load_settings(workers=2), lambda _: services), services) as web:
        with Client("http://127.0.0.1", transport=InProcess(web)) as anole:
            assert anole.adapt("line", SAMPLES, told=told.append).version == 1
        assert web.portal.call(talk, web.transport).version == 2
    assert told == []
