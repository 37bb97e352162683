"""`anole serve --engine ray` on a cluster of one node: teach, predict, follow a job, roll back, stop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from service.client import AdaptOptions, Client
from tests.e2e.conftest import COARSE, FINE, Process, labelled, serving
from tests.generated import striped, tiny_checkpoint_in

pytest.importorskip("ray", reason="Ray is not installed; `make ray-test` installs it and runs this test")
pytestmark = pytest.mark.slow

ALWAYS = AdaptOptions(mode="replace", publish="always")
ONE_OF_EACH = {
    "ANOLE_DEMO": "false",
    "ANOLE_RAY_PREDICTORS": "1",
    "ANOLE_RAY_ADAPTERS": "1",
    "ANOLE_MAX_STEPS": "10000",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("ray")
    with serving(folder / "data", tiny_checkpoint_in(folder), "--engine", "ray", **ONE_OF_EACH) as process:
        yield process


@pytest.fixture
def anole(cluster: Process) -> Iterator[Client]:
    with Client(cluster.url, timeout=httpx.Timeout(60)) as client:
        yield client


def test_what_was_taught_is_predicted_and_rolled_back(anole: Client) -> None:
    first = anole.adapt("line", labelled(fine=FINE, coarse=COARSE), ALWAYS)
    second = anole.adapt("line", labelled(medium=striped(8, 7)), AdaptOptions(publish="always"))
    assert (first.version, second.version, second.classes) == (1, 2, ["fine", "coarse", "medium"])
    found = anole.predict("line", [FINE[0], COARSE[0]])
    assert (found.version, [each.label for each in found.predictions]) == (2, ["fine", "coarse"])
    assert anole.rollback("line").version == 1
    back = anole.predict("line", [FINE[0], COARSE[0]])
    assert (back.version, back.weights_digest) == (1, first.weights.digest)
    assert [version.version for version in anole.versions("line")] == [1, 2]


def test_a_job_is_followed_to_its_version_and_another_is_cancelled(anole: Client, cluster: Process) -> None:
    stages: list[str | None] = []
    made = anole.adapt(
        "followed", labelled(fine=FINE, coarse=COARSE), ALWAYS, on_progress=lambda job: stages.append(job.state)
    )
    assert (made.version, stages[-1]) == (1, "done")
    form = {"client": "cancelled", "labels": ["fine", "coarse"] * 4, "steps": "10000"}
    files = [("samples", (f"{i}.png", image)) for i in range(4) for image in (FINE[i], COARSE[i])]
    accepted = httpx.post(
        f"{cluster.url}/adapt", data=form, files=files, headers={"Prefer": "respond-async"}, timeout=60
    )
    job = accepted.json()["job"]
    for changed in anole.follow_job(job):
        if changed.steps.done:
            break
    assert anole.cancel_job(job).state == "cancelled"
    assert "cancelled" not in [client.client for client in anole.clients()]


def test_errors_are_those_of_the_service_without_ray(anole: Client, cluster: Process) -> None:
    def error_code(path: str, files: str, count: int, fields: Mapping[str, object]) -> tuple[int, str]:
        """Send text files instead of images, and return the status and the code of the problem."""
        uploads = [(files, (f"{number}.png", b"no image")) for number in range(count)]
        response = httpx.post(f"{cluster.url}{path}", timeout=60, data=fields, files=uploads)
        assert response.headers["content-type"] == "application/problem+json"
        return response.status_code, response.json()["code"]

    anole.adapt("errors", labelled(fine=FINE, coarse=COARSE), ALWAYS)
    assert error_code("/predict", "images", 1, {"client": "missing"}) == (404, "unknown_client")
    assert error_code("/predict", "images", 1, {"client": "errors"}) == (415, "image_format_unsupported")
    two_labels, one_label = {"client": "errors", "labels": ["a", "b"]}, {"client": "errors", "labels": ["a"]}
    assert error_code("/adapt", "samples", 2, two_labels) == (415, "image_format_unsupported")
    assert error_code("/adapt", "samples", 2, one_label) == (422, "label_count_mismatch")


def test_a_repeated_request_gets_the_version_of_the_first(cluster: Process) -> None:
    form = {"client": "keyed", "labels": ["fine", "coarse"] * 4}
    files = [("samples", (f"{i}.png", image)) for i in range(4) for image in (FINE[i], COARSE[i])]

    def send() -> int:
        headers = {"Idempotency-Key": "part-17"}
        response = httpx.post(f"{cluster.url}/adapt", data=form, files=files, headers=headers, timeout=60)
        version: int = response.json()["version"]
        return version

    assert [send(), send()] == [1, 1]


def test_requests_at_the_same_time_get_their_own_answers(anole: Client, cluster: Process) -> None:
    for name, pictures in {"one": FINE, "other": COARSE}.items():
        anole.adapt(name, labelled(**{name: pictures, "rest": striped(8, 7)}), ALWAYS)

    def label(name: str) -> str:
        with Client(cluster.url, timeout=httpx.Timeout(60)) as client:
            return client.predict(name, [FINE[0] if name == "one" else COARSE[0]]).predictions[0].label

    with ThreadPoolExecutor(6) as pool:
        names = ["one", "other"] * 12
        assert list(pool.map(label, names)) == names


def test_a_signal_stops_the_service_and_its_cluster(cluster: Process) -> None:
    assert cluster.stop() == 0
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{cluster.url}/livez", timeout=5)
