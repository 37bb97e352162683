"""Each error has a problem in the table. Other errors give a response without details."""

from __future__ import annotations

import re
from types import ModuleType

import pytest

from models import errors as learning
from models.errors import AnoleError
from service import errors as serving
from service.http import problems
from service.http.problems import PROBLEMS, problem_of
from tests.in_process import Web

NEVER_ANSWERED = {
    "AnoleError",
    "ServiceError",
    "RequestRejected",
    "InvalidSettings",
    "CheckpointInvalid",
    "CohortTooSmall",
    "DatasetUnavailable",
    "InvalidKey",
    "UnknownKey",
}
"""Base classes, and errors that only stop a start, a training run, a federated round or a command for keys."""


def raised_by(*modules: ModuleType) -> list[type[AnoleError]]:
    return [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, AnoleError) and value.__module__ == module.__name__
    ]


@pytest.mark.parametrize("kind", raised_by(learning, serving, problems), ids=lambda kind: kind.__name__)
def test_every_error_has_a_problem(kind: type[AnoleError]) -> None:
    assert kind in PROBLEMS or kind.__name__ in NEVER_ANSWERED or problem_of_base(kind)


def problem_of_base(kind: type[AnoleError]) -> bool:
    return any(base in PROBLEMS and issubclass(base, serving.StoreUnavailable) for base in kind.__mro__)


def test_codes_are_unique_and_in_snake_case() -> None:
    codes = [problem.code for problem in PROBLEMS.values()]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


def test_an_error_gets_the_problem_of_its_nearest_base_class() -> None:
    full = problem_of(serving.StoreFull("no space left"))
    assert full is not None
    assert (full.status, full.code) == (507, "store_full")


def test_other_errors_have_no_problem() -> None:
    assert problem_of(KeyError("x")) is None


def test_a_problem_has_the_members_of_rfc_9457_and_a_code(web: Web) -> None:
    response = web("GET", "/clients/missing")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json() == {
        "type": "urn:anole:problem:unknown_client",
        "title": "Unknown client",
        "status": 404,
        "code": "unknown_client",
        "detail": "there is no client 'missing'; it is created when it is adapted for the first time",
        "instance": "/clients/missing",
    }


def test_an_unexpected_error_gives_500_without_details(web: Web, capfd: pytest.CaptureFixture[str]) -> None:
    web.services.adaptation.raises = RuntimeError("the password is swordfish")
    response = web.adapt()
    assert response.status_code == 500
    assert response.json()["code"] == "internal_error"
    assert "swordfish" not in response.text
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (serving.Overloaded("busy", retry_after_s=7), 503, "overloaded", "7"),
        (serving.StoreUnavailable("locked"), 503, "store_unavailable", "5"),
        (serving.StoreFull("no space"), 507, "store_full", None),
        (serving.VersionCorrupt("flipped bit"), 503, "version_corrupt", None),
        (learning.AdaptationDiverged(3, (0,)), 422, "adaptation_diverged", None),
        (learning.ImageCorrupt("a.png: truncated"), 422, "image_corrupt", None),
        (learning.ImageEmpty("a.png: no bytes"), 422, "image_empty", None),
        (learning.ImageFormatUnsupported("a.png: text"), 415, "image_format_unsupported", None),
        (learning.ImageTooLarge("a.png: 20000 x 20000"), 413, "image_too_large", None),
        (learning.ImageTooSmall("a.png: 1 x 1"), 422, "image_too_small", None),
        (serving.IdempotencyMismatch("other body"), 422, "idempotency_mismatch", None),
        (serving.IdempotencyInFlight("still running"), 409, "idempotency_in_flight", None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_errors_of_use_cases_become_problems(
    web: Web, error: AnoleError, status: int, code: str, retry_after: str | None
) -> None:
    web.services.adaptation.raises = error
    response = web.adapt()
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.json()["detail"] == str(error)
    assert response.headers.get("retry-after") == retry_after


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/docs/../../secret", 404, "not_found"),
        ("DELETE", "/livez", 405, "method_not_allowed"),
        ("GET", "/adapt", 405, "method_not_allowed"),
    ],
)
def test_errors_of_the_framework_become_problems(web: Web, method: str, path: str, status: int, code: str) -> None:
    response = web(method, path)
    assert (response.status_code, response.json()["code"]) == (status, code)
    if status == 405:
        assert response.headers["allow"]
