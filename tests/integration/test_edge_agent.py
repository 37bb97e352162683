"""The agent on a device: rings, rollback, damaged disks, clocks, and predictions like those of the service."""

from __future__ import annotations

import errno
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import errors as learning
from service import bootstrap
from service.edge import app as edge_app
from service.edge.agent import Counts, follow
from service.edge.bundle import HealthRule, Release, SmokeAnswer
from service.edge.errors import NothingInstalled
from service.edge.predictor import LoadedRelease
from service.edge.reports import report_of, send
from service.errors import InvalidRequest
from service.fleet.rollout import read_reports
from service.http.problems import PROBLEMS
from service.runtime.decoder import Upload
from service.settings import Settings
from tests.fleet_repository import (
    CLIENT,
    Device,
    EdgeWeb,
    Publisher,
    device_of,
)
from tests.generated import striped

TIMESTAMP = "metadata/timestamp.json"
CHUNKED = {"Transfer-Encoding": "chunked", "Content-Length": "9"}
IMAGES = [*striped(3, 6, seed=5), *striped(3, 20, seed=5), *striped(2, 12, seed=5)]


@pytest.fixture
def web(device: Device) -> EdgeWeb:
    return EdgeWeb(device.agent)


def form(images: list[bytes], **fields: str) -> dict[str, Any]:
    return {
        "data": {"client": CLIENT, **fields},
        "files": [("images", (f"{index}.png", image)) for index, image in enumerate(images)],
    }


def test_a_device_predicts_as_the_service_does(small_fleet: Settings, web: EdgeWeb) -> None:
    services = bootstrap.build(small_fleet)
    expected = services.prediction.run(CLIENT, [Upload(f"{i}.png", image) for i, image in enumerate(IMAGES)], "1")
    services.close()
    answer = web.post("/predict", **form(IMAGES)).json()
    assert (answer["client"], answer["version"]) == (CLIENT, 1)
    assert answer["weights_digest"] == expected.weights_digest
    for found, wanted in zip(answer["predictions"], expected.predictions, strict=True):
        assert (found["name"], found["label"], found["verdict"]) == (wanted.name, wanted.label, wanted.verdict)
        assert found["scores"] == pytest.approx(wanted.scores, abs=0.005)
        assert found["familiarity"] == pytest.approx(wanted.familiarity, abs=0.005)
        assert found["unknown_threshold"] == wanted.unknown_threshold


def test_an_image_alone_is_a_body_too(web: EdgeWeb) -> None:
    answer = web.post(f"/predict?client={CLIENT}", content=IMAGES[0], headers={"Content-Type": "image/png"})
    assert answer.json()["predictions"][0]["label"] == "pitch 6"


def test_the_version_may_be_named_if_it_is_the_one_of_the_device(web: EdgeWeb) -> None:
    assert web.post("/predict", **form(IMAGES[:1], version="1")).status_code == 200
    assert web.post("/predict", **form(IMAGES[:1], alias="live")).status_code == 200
    problem = web.post("/predict", **form(IMAGES[:1], version="2"))
    assert (problem.status_code, problem.json()["code"]) == (404, "unknown_version")


@pytest.mark.parametrize(
    ("request_options", "status", "code"),
    [
        (form([b"no image"]), 415, "image_format_unsupported"),
        (form([IMAGES[0][:100]]), 422, "image_corrupt"),
        (form([b""]), 422, "image_empty"),
        ({"data": {}, "files": [("images", ("a.png", IMAGES[0]))]}, 422, "field_missing"),
        (form(IMAGES[:1], client="line-9"), 404, "unknown_client"),
        (form(IMAGES[:1], explain="true"), 422, "field_unknown"),
        (
            {"content": IMAGES[0], "headers": CHUNKED},
            411,
            "length_required",
        ),
        ({"content": b"text", "headers": {"Content-Type": "text/plain"}}, 415, "media_type_unsupported"),
        ({"content": b"--x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "form_malformed"),
    ],
)
def test_problems_have_the_codes_of_the_service(
    web: EdgeWeb, request_options: dict[str, Any], status: int, code: str
) -> None:
    problem = web.post("/predict", **request_options)
    assert (problem.status_code, problem.json()["code"]) == (status, code)
    assert problem.headers["content-type"] == "application/problem+json"


def test_rejected_images_have_the_statuses_of_the_service() -> None:
    of_images = {kind: found for kind, found in edge_app.PROBLEMS.items() if issubclass(kind, learning.ImageRejected)}
    assert len(of_images) == 7
    assert of_images == {kind: (PROBLEMS[kind].status, PROBLEMS[kind].code) for kind in of_images}


def test_health_and_metrics_tell_what_the_device_runs(web: EdgeWeb, device: Device) -> None:
    web.post("/predict", **form(IMAGES))
    ready = web.get("/readyz").json()
    assert ready["releases"][CLIENT]["version"] == 1
    assert web.get("/livez").json() == {"status": "ok"}
    metrics = web.get("/metrics").text
    assert 'anole_edge_images_total{verdict="known"}' in metrics
    assert CLIENT not in metrics
    assert "anole_edge_poll_healthy 1.0" in metrics
    assert "anole_edge_repository_requests 7.0" in metrics


def test_a_device_without_a_release_is_not_ready_and_says_why(publisher: Publisher, tmp_path: Path) -> None:
    empty = device_of(publisher.repository, tmp_path / "new")
    empty.server.replaced[TIMESTAMP] = None
    empty.agent.poll()
    ready = EdgeWeb(empty.agent).get("/readyz")
    assert (ready.status_code, ready.json()["checks"]["releases"]) == (503, "none is installed")
    assert "cannot be reached" in ready.json()["checks"]["repository"]


def test_a_poll_without_news_is_one_small_request(device: Device) -> None:
    device.server.requested.clear()
    device.agent.poll()
    assert device.server.requested == [(TIMESTAMP, 304)]


def test_a_second_release_fetches_the_adapted_part_alone(publisher: Publisher, device: Device) -> None:
    publisher.release(2)
    device.server.requested.clear()
    device.agent.poll()
    assert device.runs() == 2
    fetched = [path for path, _ in device.server.requested if path.startswith("targets/")]
    assert len(fetched) == 1
    assert "releases/" in fetched[0]


def test_a_release_reaches_the_devices_of_its_ring_alone(publisher: Publisher, tmp_path: Path) -> None:
    publisher.release(2, percent=50)
    devices = [device_of(publisher.repository, tmp_path / f"device-{index}") for index in range(12)]
    for each in devices:
        each.agent.poll()
    first = {each.runs() for each in devices}
    assert first == {1, 2}
    publisher.fleet.advance("stable", CLIENT, 100)
    for each in devices:
        each.agent.poll()
    assert {each.runs() for each in devices} == {2}


def test_a_halt_brings_devices_back_and_resuming_goes_on(publisher: Publisher, device: Device) -> None:
    publisher.release(2)
    device.agent.poll()
    publisher.fleet.halt("stable", CLIENT)
    device.agent.poll()
    assert device.runs() == 1
    publisher.fleet.halt("stable", CLIENT, halted=False)
    device.agent.poll()
    assert device.runs() == 2


def test_a_release_after_a_halted_one_follows_the_one_before_it(publisher: Publisher, device: Device) -> None:
    publisher.release(2)
    publisher.fleet.halt("stable", CLIENT)
    (before,) = publisher.fleet.status()
    assert before.rollout.previous is not None
    assert before.rollout.previous.startswith(f"releases/{CLIENT}/1-")
    with pytest.raises(InvalidRequest, match="is released on 'stable' already"):
        publisher.release(2)


def test_the_next_release_waits_until_the_one_before_is_everywhere_or_halted(publisher: Publisher) -> None:
    publisher.fleet.halt("stable", CLIENT)
    publisher.release(2, percent=1)
    with pytest.raises(InvalidRequest, match="is at 1 % of 'stable'"):
        publisher.release(1)


@pytest.mark.parametrize("change", ["scores", "familiarity", "weights"])
def test_a_release_that_answers_otherwise_than_its_publisher_is_refused_for_good(
    publisher: Publisher, device: Device, change: str
) -> None:
    made = publisher.files.releases[2]
    answers = {
        "scores": tuple(SmokeAnswer(scores=one.scores[::-1], familiarity=one.familiarity) for one in made.info.smoke),
        "familiarity": tuple(SmokeAnswer(scores=one.scores, familiarity=0.999) for one in made.info.smoke),
        "weights": made.info.smoke,
    }[change]
    weights = dict(made.weights)
    if change == "weights":
        weights["head.weight"] = np.full_like(weights["head.weight"], np.nan)
    bad = Release(made.info.model_copy(update={"smoke": answers}), weights, made.smoke)
    publisher.fleet.publish("stable", bad, publisher.files.start, 100)
    device.agent.poll()
    assert "the scores of the smoke set differ by" in (device.agent.problem or "")
    assert (device.runs(), device.agent.rollbacks) == (1, 1)
    device.server.requested.clear()
    device.restart()
    device.agent.poll()
    assert not [path for path, _ in device.server.requested if path.startswith("targets/")]
    assert device.runs() == 1


@pytest.mark.parametrize(
    "counts", [Counts(images=10, unknown=8), Counts(images=9, failed=2)], ids=["unknown", "failures"]
)
def test_a_release_that_breaches_its_health_rule_gives_way_to_the_one_before(
    publisher: Publisher, device: Device, counts: Counts
) -> None:
    publisher.release(2, health=HealthRule(least_images=10))
    device.agent.poll()
    loaded = device.agent.release(CLIENT)
    device.agent.record(loaded, counts)
    assert device.runs() == 1
    device.restart()
    device.agent.poll()
    assert device.runs() == 1


def test_a_device_never_goes_back_to_a_halted_release(publisher: Publisher, device: Device) -> None:
    publisher.release(2)
    device.agent.poll()
    publisher.fleet.halt("stable", CLIENT)
    device.agent.poll()
    device.agent.record(device.agent.release(CLIENT), Counts(images=1000, unknown=1000))
    assert device.runs() == 1
    device.restart()
    assert device.runs() == 1


def test_a_device_that_cannot_go_back_on_a_full_disk_predicts_and_goes_back_later(
    publisher: Publisher, device: Device, web: EdgeWeb, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.release(2, health=HealthRule(least_images=1, max_unknown=0), unknown_threshold=-1.0)
    device.agent.poll()
    with monkeypatch.context() as full:

        def no_space(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        full.setattr("service.edge.installed.write_atomically", no_space)
        answer = web.post("/predict", **form(IMAGES[:1]))
        assert (answer.status_code, answer.json()["version"]) == (200, 2)
    web.post("/predict", **form(IMAGES[:1]))
    assert device.runs() == 1


def test_a_release_that_needs_another_anole_is_installed_after_the_update(
    publisher: Publisher, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.release(2)
    with monkeypatch.context() as older:
        older.setattr("service.edge.predictor.PREPROCESSING_VERSION", 0)
        device.restart()
        device.agent.poll()
        assert "update Anole on the device" in (device.agent.problem or "")
    device.restart()
    device.agent.poll()
    assert (device.agent.problem, device.runs()) == (None, 2)


def test_another_channel_does_not_change_a_release(publisher: Publisher, device: Device) -> None:
    (before,) = [one for path, one in publisher.repository.targets().items() if path.startswith("releases/")]
    made = publisher.files.releases[1]
    changed = Release(made.info.model_copy(update={"tolerance": 0.1}), made.weights, made.smoke)
    publisher.fleet.publish("canary", changed, publisher.files.start, 1)
    assert publisher.repository.targets()[before.path].hashes == before.hashes


def test_a_new_device_that_refuses_the_newest_release_runs_the_one_before(publisher: Publisher, tmp_path: Path) -> None:
    publisher.release(2, tolerance=1e-6, smoke=tuple(
        one.model_copy(update={"familiarity": 0.0}) for one in publisher.files.releases[2].info.smoke
    ))  # fmt: skip
    new = device_of(publisher.repository, tmp_path / "new")
    new.agent.poll()
    assert (new.agent.rollbacks, new.runs()) == (1, None)
    (status,) = publisher.fleet.status([report_of(new.agent)])
    assert status.breach == "1 of 1 devices refused the release; at most 5.0% may"
    new.agent.poll()
    assert new.agent.problem is None
    assert new.runs() == 1


def test_a_device_goes_back_although_the_release_before_is_damaged(publisher: Publisher, device: Device) -> None:
    before = {path.name for path in (device.folder / "files").iterdir()} - {
        publisher.repository.targets()[path].hashes["sha256"]
        for path in publisher.repository.targets()
        if path.startswith("starts/")
    }
    publisher.release(2, health=HealthRule(least_images=10))
    device.agent.poll()
    (device.folder / "files" / before.pop()).write_bytes(b"damaged")
    device.agent.record(device.agent.release(CLIENT), Counts(images=10, unknown=10))
    assert device.runs() is None
    device.agent.poll()
    assert device.runs() == 1


def test_the_first_release_stays_although_it_breaches_its_rule(device: Device) -> None:
    loaded = device.agent.release(CLIENT)
    device.agent.record(loaded, Counts(images=1000, unknown=1000))
    assert device.runs() == 1


def test_a_failing_prediction_is_counted_and_answered_without_details(
    web: EdgeWeb, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(LoadedRelease, "predict", broken)
    problem = web.post("/predict", **form(IMAGES[:1]))
    assert (problem.status_code, problem.json()["code"]) == (500, "internal_error")
    assert "secret" not in problem.text
    assert report_of(device.agent).releases[0].failed == 1


def test_a_damaged_file_gives_way_to_the_release_before_and_is_fetched_again(
    publisher: Publisher, device: Device
) -> None:
    publisher.release(2)
    device.agent.poll()
    (current,) = [path for path in (device.folder / "files").iterdir() if b'\\"version\\": 2' in path.read_bytes()]
    current.write_bytes(current.read_bytes()[:-1])
    device.restart()
    assert device.runs() == 1
    device.agent.poll()
    assert device.runs() == 2


def test_a_full_disk_keeps_what_is_installed_and_is_retried(
    publisher: Publisher, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.release(2)
    with monkeypatch.context() as full:

        def no_space(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        full.setattr("service.edge.installed.write_atomically", no_space)
        device.agent.poll()
        assert "No space left" in (device.agent.problem or "")
        assert device.runs() == 1
    device.agent.poll()
    assert (device.agent.problem, device.runs()) == (None, 2)


def test_nothing_is_installed_while_the_clock_is_behind(publisher: Publisher, device: Device) -> None:
    publisher.release(2)
    device.now -= timedelta(days=400)
    device.agent.poll()
    assert "the clock shows" in (device.agent.problem or "")
    assert device.runs() == 1
    device.now += timedelta(days=400)
    device.agent.poll()
    assert (device.agent.problem, device.runs()) == (None, 2)


def test_a_clock_that_jumps_ahead_and_is_set_right_within_a_day_does_no_harm(device: Device) -> None:
    device.now += timedelta(hours=20)
    device.agent.poll()
    device.now -= timedelta(hours=20)
    device.agent.poll()
    assert device.agent.problem is None


def test_files_that_no_release_needs_are_removed(publisher: Publisher, device: Device) -> None:
    (device.folder / "files" / ".unfinished-abc").write_bytes(b"half")
    publisher.release(2)
    device.agent.poll()
    assert len(list((device.folder / "files").iterdir())) == 3  # two releases and their start


def test_reports_have_counts_and_no_name_of_the_device(
    web: EdgeWeb, device: Device, publisher: Publisher, tmp_path: Path
) -> None:
    web.post("/predict", **form(IMAGES))
    send(report_of(device.agent), str(tmp_path / "reports"))
    (report,) = read_reports(str(tmp_path / "reports"))
    assert report.releases[0].images == len(IMAGES)
    assert device.agent.device not in report.model_dump_json()
    (status,) = publisher.fleet.status([report])
    assert (status.counts.devices, status.counts.images, status.breach) == (1, len(IMAGES), None)


def test_an_unknown_client_is_named_with_those_that_are_installed(device: Device) -> None:
    with pytest.raises(NothingInstalled, match=r"no release of client 'line-9'; installed: line-7"):
        device.agent.release("line-9")


class Stop(threading.Event):
    """Ends after three polls, and remembers how long it was waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0.0)
        return len(self.waits) > 3


def test_polls_are_spread_around_the_interval(device: Device) -> None:
    stop = Stop()
    follow(device.agent, 60.0, stop, np.random.default_rng(0))
    assert 0 <= stop.waits[0] <= 60
    assert all(30 <= wait_s <= 90 for wait_s in stop.waits[1:])
    assert len(set(stop.waits)) == 4


def test_polls_go_on_after_a_failed_report(device: Device) -> None:
    def broken() -> None:
        raise ValueError("unexpected")

    before = device.agent.polls
    follow(device.agent, 60.0, Stop(), np.random.default_rng(0), broken)
    assert device.agent.polls == before + 3


def test_polls_go_on_after_an_unexpected_error(device: Device) -> None:
    device.server.error = ValueError("unexpected")
    stop = Stop()
    follow(device.agent, 60.0, stop, np.random.default_rng(0))
    assert "unexpected" in (device.agent.problem or "")
    assert device.agent.polls == 4
    assert [round(wait_s / 60 / 2**i, 6) for i, wait_s in enumerate(stop.waits[1:])] == pytest.approx(
        [0.2] * 3, abs=0.1
    )
