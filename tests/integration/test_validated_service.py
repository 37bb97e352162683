"""Cross-validation, gate, verdicts and diffs through the API with the real use cases and store."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from service import bootstrap
from service.http.app import create_app
from service.settings import Settings
from tests.generated import encoded, striped
from tests.in_process import Web, started
from tests.repeated import repeats_bit_by_bit

CLASSES = {"fine": 4, "coarse": 13}


def adapt(web: Web, images: dict[str, list[bytes]], client: str = "line", **fields: Any) -> Any:
    files = [
        ("samples", (f"{label}-{index}.png", content))
        for label, contents in images.items()
        for index, content in enumerate(contents)
    ]
    labels = [label for label, contents in images.items() for _ in contents]
    response = web("POST", "/adapt", data={"client": client, "labels": labels, **fields}, files=files)
    assert response.status_code == 201, response.text
    return response.json()


def images(count: int = 6, seed: int = 0, **classes: int) -> dict[str, list[bytes]]:
    return {label: striped(count, period, seed) for label, period in (classes or CLASSES).items()}


def test_a_report_is_complete_and_its_gate_decision_follows_from_the_estimate(web: Web) -> None:
    adapted = adapt(web, images(8), steps="3")
    report = adapted["report"]
    assert report["confusion"] == [[8, 0], [0, 8]]
    assert (report["support_accuracy"], report["estimated_accuracy"], report["suspects"]) == (1.0, 1.0, [])
    low, high = report["interval"]
    assert 0.5 < low < high == 1.0
    assert 0.1 < report["temperature"] < 10
    assert 0 < report["unknown_threshold"] < 1
    assert report["folds"] == 3
    assert len(report["loss_curve"]) == 3
    assert all(0 < loss < 1 for loss in report["loss_curve"])
    assert (adapted["published"], adapted["live"]) == (True, 1)
    gate = report["gate"]
    assert (gate["decision"], gate["floor"], gate["dropped"]) == ("publish", 0.75, [])
    assert gate["reasons"][0].startswith("the estimated accuracy of 100.0 % (95 % interval ")
    assert "held_out" not in report
    stages = [report["seconds"][stage] for stage in ("decode", "adapt", "examine", "store")]
    assert all(seconds > 0 for seconds in stages)
    assert report["seconds"]["total"] == pytest.approx(sum(stages), rel=0.05, abs=0.05)


def test_a_version_that_misses_the_floor_is_not_published(web: Web) -> None:
    first = adapt(web, images(), publish="always")
    assert first["published"]
    web("PUT", "/clients/line/settings", json={"floor": 1.0, "tolerance": 1.0})
    noise = {label: [*contents, *striped(2, 40, seed=7)] for label, contents in images().items()}
    noise["coarse"] = noise["coarse"][:-2] + striped(2, 4, seed=9)  # wrong labels, so that the estimate is below 1
    held = adapt(web, noise, mode="replace")
    assert (held["version"], held["published"], held["live"]) == (2, False, 1)
    gate = held["report"]["gate"]
    assert (gate["decision"], gate["floor"]) == ("hold", 1.0)
    assert "below the floor of 100.0 %" in gate["reasons"][0]
    forced = adapt(web, noise, mode="replace", publish="always")
    assert (forced["published"], forced["live"]) == (True, 3)


def test_a_version_from_one_sample_per_class_is_held_because_it_has_no_estimate(web: Web) -> None:
    adapted = adapt(web, images(1))
    report = adapted["report"]
    left_out = ("estimated_accuracy", "interval", "temperature", "unknown_threshold", "suspects", "confusion")
    assert [report[name] for name in left_out] == [None] * len(left_out)
    assert (adapted["published"], adapted["live"], report["gate"]["decision"]) == (False, None, "hold")
    assert "one sample" in report["gate"]["reasons"][0]
    files = [("images", ("a.png", striped(1, 4)[0]))]
    predictions = web("POST", "/predict", data={"client": "line", "version": "1"}, files=files).json()
    assert predictions["predictions"][0]["verdict"] == "known"


def test_pictures_of_one_part_per_class_give_no_estimate(web: Web) -> None:
    one_part_each: Any = {"parts": [label for label, contents in images(6).items() for _ in contents]}
    adapted = adapt(web, images(6), **one_part_each)
    assert adapted["report"]["estimated_accuracy"] is None
    assert "part" in adapted["report"]["gate"]["reasons"][0]


def test_parts_are_kept_at_extension_and_listed(web: Web) -> None:
    adapt(web, images(2), parts=["a", "a", "b", "c"], publish="always")
    adapt(web, images(2), publish="always")  # the same pictures without parts
    adapt(web, images(1, seed=1), parts=["d", "e"], publish="always")
    for version, parts in ((1, ["a", "a", "b", "c"]), (3, ["a", "a", "b", "c", "d", "e"])):
        listed = web("GET", f"/clients/line/versions/{version}").json()["sample_list"]
        assert [sample["part"] for sample in listed] == parts


def test_different_parts_under_a_fixed_camera_are_cross_validated(web: Web) -> None:
    generator = np.random.default_rng(0)
    fixture = generator.uniform(0, 255, (6, 6)).repeat(8, 0).repeat(8, 1)
    pictures: dict[str, list[bytes]] = {"good": [], "scratched": []}
    for label, contents in pictures.items():
        for _ in range(5):
            pixels = fixture + generator.normal(0, 3, fixture.shape)
            if label == "scratched":
                row = generator.integers(10, 40)
                pixels[row : row + 3, 10:30] = 250
            contents.append(encoded(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))))
    report = adapt(web, pictures)["report"]
    assert sum(map(sum, report["confusion"])) == 10
    assert report["estimated_accuracy"] is not None


def test_copies_of_one_image_give_no_estimate(web: Web) -> None:
    adapted = adapt(web, {label: contents * 3 for label, contents in images(1).items()})
    assert adapted["report"]["estimated_accuracy"] is None


@pytest.mark.parametrize("steps", ["0", "3"])
def test_unequal_classes_are_cross_validated_with_and_without_steps(web: Web, steps: str) -> None:
    unequal = {"fine": striped(10, 4), "coarse": striped(2, 13), "single": striped(1, 30)}
    adapted = adapt(web, unequal, steps=steps)
    report = adapted["report"]
    judged = {label: sum(row) for label, row in zip(adapted["classes"], report["confusion"], strict=True)}
    assert judged == {"fine": 10, "coarse": 2, "single": 0}
    assert report["estimated_accuracy"] > report["gate"]["floor"]
    assert any("'single'" in reason for reason in report["gate"]["reasons"])


def test_a_verdict_depends_on_the_unknown_score_and_the_threshold_of_the_version(web: Web) -> None:
    adapted = adapt(web, images(8), publish="always")
    threshold = adapted["report"]["unknown_threshold"]
    blank = [encoded(Image.new("L", (40, 40), shade)) for shade in (0, 255)]
    contents = [*striped(3, 4, seed=5), *striped(3, 13, seed=5), *blank]
    files = [("images", (f"{index}.png", content)) for index, content in enumerate(contents)]
    predictions = web("POST", "/predict", data={"client": "line"}, files=files).json()["predictions"]
    assert [prediction["verdict"] for prediction in predictions] == ["known"] * 6 + ["unknown"] * 2
    assert all(0 < prediction["familiarity"] < 1 for prediction in predictions)
    assert [prediction["unknown_score"] > threshold for prediction in predictions] == [False] * 6 + [True] * 2
    recorded = web("GET", "/clients/line/versions/1").json()["report"]
    for prediction in predictions:
        assert prediction["unknown_threshold"] == threshold == recorded["unknown_threshold"]
        assert prediction["unknown_score"] == pytest.approx(1 - prediction["familiarity"], abs=1e-9)
        above = prediction["unknown_score"] > prediction["unknown_threshold"]
        assert above == (prediction["verdict"] == "unknown")


def test_the_unknown_rate_of_a_client_sets_the_threshold_of_its_next_versions(web: Web) -> None:
    samples = images(8)
    default = adapt(web, samples)["report"]["unknown_threshold"]
    thresholds = []
    for rate in (0, 0.05, 0.5):
        web("PUT", "/clients/line/settings", json={"unknown_rate": rate})
        thresholds.append(adapt(web, samples, mode="replace")["report"]["unknown_threshold"])
    assert thresholds[0] > thresholds[1] == default > thresholds[2]


def test_the_diff_of_two_versions_shows_what_an_extension_changed(web: Web) -> None:
    adapt(web, images(), publish="always")
    adapt(web, images(4, broad=30), publish="always")
    diff = web("GET", "/clients/line/versions/1/diff/2").json()
    assert (diff["added"], diff["removed"], diff["changed"]) == (["broad"], [], [])
    assert (diff["samples_kept"], diff["samples_added"], diff["samples_removed"]) == (12, 4, 0)
    six, four = ({"judged": count, "right": count, "estimate": 1.0} for count in (6, 4))
    classes = {row["label"]: (row["before"], row["after"]) for row in diff["classes"]}
    assert classes == {"fine": (six, six), "coarse": (six, six), "broad": (None, four)}
    reverse = web("GET", "/clients/line/versions/2/diff/1").json()
    assert (reverse["added"], reverse["removed"], reverse["changed"]) == ([], ["broad"], [])
    assert (reverse["samples_added"], reverse["samples_removed"]) == (0, 4)
    assert web("GET", "/clients/line/versions/1/diff/9").status_code == 404


def test_the_diff_of_two_versions_shows_a_corrected_label(web: Web) -> None:
    sent = images()
    adapt(web, sent, publish="always")
    adapt(web, {"coarse": sent["fine"][:1]}, publish="always")
    for (before, after), labels in (((1, 2), ("fine", "coarse")), ((2, 1), ("coarse", "fine"))):
        diff = web("GET", f"/clients/line/versions/{before}/diff/{after}").json()
        relabelled = [row for row in diff["changed"] if row["label_before"] != row["label_after"]]
        assert [(row["name"], row["label_before"], row["label_after"]) for row in relabelled] == [
            (f"{labels[1]}-0.png", *labels)
        ]
        assert (diff["added"], diff["removed"], diff["samples_kept"]) == ([], [], 12)
        judged = {row["label"]: row["after"]["judged"] - row["before"]["judged"] for row in diff["classes"]}
        assert judged == {labels[0]: -1, labels[1]: 1}


def test_a_version_lists_the_held_out_prediction_of_each_sample(web: Web) -> None:
    adapt(web, images(), publish="always")
    listed = web("GET", "/clients/line/versions/1").json()["sample_list"]
    assert [sample["label"] for sample in listed] == ["fine"] * 6 + ["coarse"] * 6
    assert [sample["held_out"]["label"] for sample in listed] == [sample["label"] for sample in listed]
    assert all(0.5 < sample["held_out"]["confidence"] <= 1 for sample in listed)


def test_a_report_survives_a_restart_and_a_rerun_gives_the_same_weights(settings: Settings) -> None:
    services = bootstrap.build(settings)
    with started(create_app(settings, lambda _: services), services) as web:
        first = adapt(web, images(), publish="always")
    again = bootstrap.build(settings)
    with started(create_app(settings, lambda _: again), again) as web:
        assert web("GET", "/clients/line/versions/1").json()["report"] == first["report"]
    assert repeats_bit_by_bit(settings, "line", 1)


def test_the_report_does_not_depend_on_the_number_of_threads(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def report_with(threads: int) -> dict[str, Any]:
        monkeypatch.setattr(bootstrap, "usable_cores", lambda: threads)
        changed = settings.model_copy(update={"data": settings.data / str(threads)})
        with started(create_app(changed, bootstrap.build)) as web:
            report = adapt(web, images())["report"]
        return {name: value for name, value in report.items() if name != "seconds"}

    assert report_with(1) == report_with(3)
