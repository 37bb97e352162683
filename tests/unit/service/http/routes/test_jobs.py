"""Jobs: accepting, following, cancelling and forgetting them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from service.domain.job import JobRecord, JobState, JobUpdate, Progress
from service.http.app import create_app
from service.http.middleware import auth
from service.runtime.adapt_queue import JobControl
from service.settings import load_settings
from service.usecases.adapt_command import AdaptCommand, AdaptOutcome
from tests.in_process import PNG, Web, started
from tests.unit.service.fakes import NOON, FakeAdaptation, FakeServices
from tests.unit.service.http.guarded import key_for

LIMIT_S = 30
ASYNC = {"Prefer": "respond-async"}
FORM = {
    "data": {"client": "line", "labels": ["a", "b"]},
    "files": [("samples", ("1.png", PNG)), ("samples", ("2.png", PNG))],
}


class Stepwise(FakeAdaptation):
    """Runs two inner steps, the second when the test sets `go`. Checks its `JobControl` before it stores a version."""

    def __init__(self, services: FakeServices) -> None:
        super().__init__(services.clients, services.jobs)
        self.begun, self.go = threading.Event(), threading.Event()

    def submit(self, command: AdaptCommand, control: JobControl) -> Future[AdaptOutcome]:
        self.before = lambda: self._steps(command, control)
        return super().submit(command, control)

    def _steps(self, command: AdaptCommand, control: JobControl) -> None:
        self.before = lambda: None
        control.enter("adapt")
        if command.first is not None:
            control.publish_first(self.run(command))
        control.plan(2)
        control.step(0.75)
        self.begun.set()
        assert self.go.wait(LIMIT_S)
        control.step(0.5)


@pytest.fixture
def stepwise(settings: Any) -> Iterator[Web]:
    services = FakeServices()
    adaptation = services.adaptation = Stepwise(services)
    with started(create_app(settings, lambda _: services), services) as web:
        yield web
        adaptation.go.set()


def begin(web: Web, **fields: str) -> httpx.Response:
    response = web("POST", "/adapt", **{**FORM, "data": {**FORM["data"], **fields}}, headers=ASYNC)  # type: ignore[dict-item]
    assert web.services.adaptation.begun.wait(LIMIT_S)
    return response


def events(response: httpx.Response) -> list[tuple[str, Any]]:
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = [block.split("\n") for block in response.text.split("\n\n") if block]
    return [(kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for kind, data in blocks]


def test_a_job_is_accepted_at_once_and_shows_its_progress_and_result(stepwise: Web) -> None:
    response = begin(stepwise)
    assert (response.status_code, response.headers["preference-applied"]) == (202, "respond-async")
    path = response.headers["location"]
    job = stepwise("GET", path).json()
    assert (job["state"], job["stage"], job["client"]) == ("running", "adapt", "line")
    assert job["steps"] == {"done": 1, "of": 2, "loss": 0.75}
    assert (job["result"], job["problem"], job["first"]) == (None, None, None)
    stepwise.services.adaptation.go.set()
    assert events(stepwise("GET", f"{path}/events"))[-1][0] == "done"
    job = stepwise("GET", path).json()
    assert (job["state"], job["steps"]["done"], job["result"]["version"]) == ("done", 2, 1)
    assert 'anole_versions_total{gate="publish"} 1.0' in stepwise("GET", "/metrics").text
    assert "anole_adapt_jobs 0.0" in stepwise("GET", "/metrics").text


def test_events_are_sent_while_a_job_runs_and_the_last_one_has_the_result(stepwise: Web) -> None:
    path = begin(stepwise).headers["location"]
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(stepwise, "GET", f"{path}/events")
        stepwise.services.adaptation.go.set()
        received = events(following.result(LIMIT_S))
    assert [kind for kind, _ in received][:-1] == ["progress"] * (len(received) - 1)
    assert received[-1][0] == "done"
    assert received[-1][1]["result"]["version"] == 1


def test_a_version_from_prototypes_comes_first_if_requested(stepwise: Web) -> None:
    response = begin(stepwise, first="prototypes")
    job = stepwise("GET", response.headers["location"]).json()
    assert (job["state"], job["first"]["version"], job["result"]) == ("running", 1, None)
    stepwise.services.adaptation.go.set()
    received = events(stepwise("GET", f"{response.headers['location']}/events"))
    assert next(data for kind, data in received if kind == "first")["version"] == 1
    assert received[-1][1]["result"]["version"] == 2
    rejected = stepwise.adapt(first="prototypes")
    assert (rejected.status_code, rejected.json()["code"]) == (422, "fields_conflict")


def test_a_cancelled_job_makes_no_version_and_ends_its_events(stepwise: Web) -> None:
    path = begin(stepwise).headers["location"]
    assert stepwise("DELETE", path).json()["state"] == "cancelled"
    assert [kind for kind, _ in events(stepwise("GET", f"{path}/events"))] == ["cancelled"]
    stepwise.services.adaptation.go.set()
    assert stepwise("GET", path).json()["result"] is None
    assert stepwise.services.clients.kept == {}


def test_a_job_that_has_ended_cannot_be_cancelled(web: Web) -> None:
    path = web("POST", "/adapt", **FORM, headers=ASYNC).headers["location"]
    assert events(web("GET", f"{path}/events"))[-1][0] == "done"
    assert web("DELETE", path).json()["state"] == "done"


@pytest.mark.parametrize(("error", "code"), [(MemoryError(), "overloaded"), (KeyError("secret"), "internal_error")])
def test_a_failed_job_has_the_problem_of_its_error(web: Web, error: Exception, code: str) -> None:
    web.services.adaptation.raises = error
    path = web("POST", "/adapt", **FORM, headers=ASYNC).headers["location"]
    kind, job = events(web("GET", f"{path}/events"))[-1]
    assert (kind, job["state"], job["problem"]["code"]) == ("failed", "failed", code)
    assert "secret" not in json.dumps(job)


def test_an_unknown_job_is_a_problem_that_says_what_to_do(web: Web) -> None:
    for method, path in (("GET", "/jobs/0"), ("DELETE", "/jobs/0"), ("GET", "/jobs/0/events")):
        response = web(method, path)
        assert (response.status_code, response.json()["code"]) == (404, "unknown_job")
        assert "Idempotency-Key" in response.json()["detail"]


def test_jobs_count_as_adaptations_of_their_key_until_they_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    services = FakeServices()
    adaptation = services.adaptation = Stepwise(services)
    monkeypatch.setattr(auth, "KEY_ADAPTING", 1)
    settings = load_settings(adapt_running=4)
    with started(create_app(settings, lambda _: services), services) as web:
        headers = {**ASYNC, **key_for(web, "adapt")}
        services.keys.read()
        path = web("POST", "/adapt", **FORM, headers=headers).headers["location"]
        assert web("POST", "/adapt", **FORM, headers=headers).status_code == 429
        adaptation.go.set()
        assert events(web("GET", f"{path}/events", headers=headers))[-1][0] == "done"
        assert web("POST", "/adapt", **FORM, headers=headers).status_code == 202


def test_a_service_with_several_workers_has_jobs_too() -> None:
    services = FakeServices()
    with started(create_app(load_settings(workers=2), lambda _: services), services) as web:
        path = web("POST", "/adapt", **FORM, headers=ASYNC).headers["location"]
        assert events(web("GET", f"{path}/events"))[-1][1]["result"]["version"] == 1


def kept_by_another_worker(web: Web, state: JobState) -> str:
    job = JobRecord("9" * 32, "line", "another worker", None, NOON, state, Progress("adapt", 3, 9, 0.5))
    web.services.kept_jobs.kept[job.id] = job
    return f"/jobs/{job.id}"


def test_a_job_of_another_worker_is_shown_and_cancelled(web: Web) -> None:
    path = kept_by_another_worker(web, "running")
    job = web("GET", path).json()
    assert (job["state"], job["steps"]) == ("running", {"done": 3, "of": 9, "loss": 0.5})
    assert web("DELETE", path).json()["state"] == "cancelled"
    assert [kind for kind, _ in events(web("GET", f"{path}/events"))] == ["cancelled"]


def test_a_job_of_another_worker_is_followed(web: Web) -> None:
    path = kept_by_another_worker(web, "running")
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(web, "GET", f"{path}/events")
        web.services.kept_jobs.until_read(2)
        web.services.kept_jobs.end(JobUpdate("9" * 32, "cancelled", Progress("adapt", 5, 9)))
        received = events(following.result(LIMIT_S))
    assert [(kind, job["steps"]["done"]) for kind, job in received] == [("progress", 3), ("cancelled", 5)]


def test_a_job_of_a_lost_worker_has_failed_with_a_problem_that_says_so(web: Web) -> None:
    path = kept_by_another_worker(web, "failed")
    kind, job = events(web("GET", f"{path}/events"))[-1]
    assert (kind, job["problem"]["code"]) == ("failed", "worker_lost")
    assert "Idempotency-Key" in job["problem"]["detail"]


def test_a_followed_job_fails_when_its_client_is_deleted(web: Web) -> None:
    path = kept_by_another_worker(web, "running")
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(web, "GET", f"{path}/events")
        web.services.kept_jobs.until_read(2)
        web.services.kept_jobs.remove("9" * 32)
        kind, job = events(following.result(LIMIT_S))[-1]
    assert (kind, job["problem"]["code"]) == ("failed", "client_deleted")
    assert web("GET", path).json()["code"] == "unknown_job"


def test_jobs_of_clients_that_the_key_cannot_access_are_unknown(guarded: Web) -> None:
    path = kept_by_another_worker(guarded, "running")
    headers = key_for(guarded, "adapt", clients=("other",))
    assert guarded("GET", path, headers=headers).json()["code"] == "unknown_job"
    assert guarded("DELETE", path, headers=headers).json()["code"] == "unknown_job"
    assert guarded("GET", path, headers=key_for(guarded, "adapt", clients=("line",))).status_code == 200


def test_accepted_adaptations_are_finished_before_services_are_closed(settings: Any) -> None:
    services = FakeServices()
    with started(create_app(settings, lambda _: services), services):
        pass
    assert 0 < services.finished_within_s <= settings.drain_s + settings.stop_s
