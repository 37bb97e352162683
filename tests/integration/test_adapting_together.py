"""Many clients adapt at once through the whole service: each gets the same version as alone, or its own error."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from service import bootstrap
from service.http.app import create_app
from service.settings import Settings
from tests.generated import striped
from tests.in_process import Web, started

PERIODS = (5, 9, 15, 25)
CLIENTS = {"ada": (2, 3), "bo": (4, 2), "cy": (3, 5), "di": (2, 6), "ed": (4, 4), "flo": (3, 1)}
"""The number of classes and of samples per class of each client."""


@pytest.fixture
def busy(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A service that runs several adaptations at the same time."""
    several = settings.model_copy(update={"adapt_running": 3, "adapt_waiting": 16})
    monkeypatch.setattr(bootstrap, "usable_cores", lambda: 2)
    services = bootstrap.build(several)
    with started(create_app(several, lambda _: services), services) as web:
        yield web


def adapt(web: Web, client: str, classes: int, shots: int, seed: int = 0, **fields: str) -> httpx.Response:
    samples = [(period, content) for period in PERIODS[:classes] for content in striped(shots, period, seed)]
    files = [("samples", (f"{index}.png", content)) for index, (_, content) in enumerate(samples)]
    data: dict[str, Any] = {"client": client, "labels": [f"pitch {period}" for period, _ in samples], "seed": "7"}
    return web("POST", "/adapt", data={**data, **fields}, files=files)


def test_concurrent_adaptations_get_the_same_versions_as_alone_and_failures_stay_their_own(busy: Web) -> None:
    with ThreadPoolExecutor(8) as pool:
        futures = {client: pool.submit(adapt, busy, client, *size) for client, size in CLIENTS.items()}
        wild = pool.submit(adapt, busy, "wild", 3, 4, learning_rate="1e6", steps="50")
        broken = pool.submit(
            busy, "POST", "/adapt", data={"client": "broken", "labels": ["a", "b"]},
            files=[("samples", (name, b"no image")) for name in "ab"],
        )  # fmt: skip
        digests = {client: work.result().json()["weights"]["digest"] for client, work in futures.items()}
    assert (wild.result().status_code, wild.result().json()["code"]) == (422, "adaptation_diverged")
    assert (broken.result().status_code, broken.result().json()["code"]) == (415, "image_format_unsupported")
    for client, size in CLIENTS.items():
        again = adapt(busy, f"{client}-alone", *size).json()
        assert again["weights"]["digest"] == digests[client]
        assert busy("GET", f"/clients/{client}/versions/1").json()["batched_with"] == 0


def test_concurrent_extensions_of_one_client_build_on_each_other(busy: Web) -> None:
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(adapt, busy, "line", 2, 2, seed, publish="always") for seed in range(4)]
        numbers = sorted(work.result().json()["version"] for work in futures)
    assert numbers == [1, 2, 3, 4]
    versions = [busy("GET", f"/clients/line/versions/{number}").json() for number in numbers]
    assert [version["parent"] for version in versions] == [None, 1, 2, 3]
    assert [version["samples"] for version in versions] == [4, 8, 12, 16]


def test_a_job_with_prototypes_first_makes_two_cross_validated_versions(busy: Web) -> None:
    samples = [(period, content) for period in PERIODS[:2] for content in striped(4, period, 0)]
    accepted = busy(
        "POST", "/adapt", headers={"Prefer": "respond-async"},
        data={"client": "line", "labels": [f"pitch {period}" for period, _ in samples], "first": "prototypes"},
        files=[("samples", (f"{index}.png", content)) for index, (_, content) in enumerate(samples)],
    )  # fmt: skip
    assert accepted.status_code == 202
    busy("GET", f"{accepted.headers['location']}/events")
    job = busy("GET", accepted.headers["location"]).json()
    assert (job["state"], job["first"]["version"], job["result"]["version"]) == ("done", 1, 2)
    first, second = (busy("GET", f"/clients/line/versions/{number}").json() for number in (1, 2))
    assert (first["recipe"]["steps"], second["recipe"]["steps"]) == (0, 5)
    assert first["samples"] == second["samples"] == 8
    assert second["parent"] == 1
    for result, kept in ((job["first"], first), (job["result"], second)):
        assert result["report"]["gate"]["decision"] in {"publish", "hold"}
        assert kept["estimated_accuracy"] is not None
        assert result["published"] == (result["report"]["gate"]["decision"] == "publish")


def test_a_stopping_service_finishes_its_accepted_jobs(settings: Settings) -> None:
    services = bootstrap.build(settings)
    samples = [(period, content) for period in PERIODS[:2] for content in striped(3, period, 0)]
    with started(create_app(settings, lambda _: services), services) as web:
        for client in ("ada", "bo", "cy"):
            response = web(
                "POST", "/adapt", headers={"Prefer": "respond-async"},
                data={"client": client, "labels": [f"pitch {period}" for period, _ in samples]},
                files=[("samples", (f"{index}.png", content)) for index, (_, content) in enumerate(samples)],
            )  # fmt: skip
            assert response.status_code == 202
    again = bootstrap.build(settings)
    assert [summary.name for summary in again.clients.list()] == ["ada", "bo", "cy"]
    again.close()
