"""Log lines say who asked for what, and which problem there was; never a key."""

from __future__ import annotations

from typing import Any

import structlog

from service.domain.audit import Actor, current_actor
from tests.in_process import Web
from tests.unit.service.http.guarded import key_for


def line_of(lines: list[Any], event: str = "request") -> dict[str, Any]:
    (found,) = (line for line in lines if line["event"] == event)
    return dict(found)


def test_a_request_is_logged_with_the_prefix_of_its_key_its_client_and_its_version(guarded: Web) -> None:
    headers = key_for(guarded)
    guarded("POST", "/adapt", headers=headers, data={"client": "line"})
    with structlog.testing.capture_logs() as lines:
        answer = guarded("GET", "/clients/line/versions/7", headers=headers)
    line = line_of(lines)
    prefix = headers["X-API-Key"].rpartition("_")[0]
    assert headers["X-API-Key"].startswith(line["key"])
    assert prefix.startswith(line["key"])
    assert line["request_id"] == answer.headers["x-request-id"]
    assert (line["client"], line["version"], line["code"]) == ("line", "7", "unknown_client")
    assert headers["X-API-Key"] not in str(lines)


def test_a_request_without_a_key_is_logged_without_one(web: Web) -> None:
    with structlog.testing.capture_logs() as lines:
        web("GET", "/clients")
    assert {"key", "code", "client"}.isdisjoint(line_of(lines))


def test_a_form_that_fails_is_logged_with_its_client(web: Web) -> None:
    with structlog.testing.capture_logs() as lines:
        web("POST", "/predict", data={"client": "missing"}, files={"images": b"\x89PNG"})
    line = line_of(lines)
    assert (line["client"], line["code"]) == ("missing", "unknown_client")


def test_work_for_a_request_knows_who_sent_it(guarded: Web) -> None:
    seen: list[Actor] = []
    samples = guarded.services.samples
    samples.check = lambda _client, _digest: seen.append(current_actor())
    headers = key_for(guarded)
    answer = guarded("GET", f"/clients/line/samples/{'d' * 64}", headers={**headers, "If-None-Match": "*"})
    assert seen == [Actor(headers["X-API-Key"][:14], "test", answer.headers["x-request-id"])]


def test_a_job_is_logged_when_it_ends_with_what_it_made(guarded: Web) -> None:
    headers = {**key_for(guarded), "Prefer": "respond-async"}
    files = [("samples", (f"{index}.png", b"\x89PNG")) for index in range(2)]
    form = {"client": "line", "labels": ["good", "bad"]}
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        started = guarded("POST", "/adapt", headers=headers, data=form, files=files)
        guarded("GET", f"/jobs/{started.json()['job']}/events", headers=headers)
    line = line_of(lines, "job")
    assert (line["client"], line["state"], line["version"]) == ("line", "done", 1)
    assert line["request_id"] == started.headers["x-request-id"]
    assert line["key"] == headers["X-API-Key"][:14]
