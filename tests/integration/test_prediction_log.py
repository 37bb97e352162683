"""The prediction log with the whole service: what is recorded of which requests, and what the candidate says."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from typing import Any

from tests.generated import striped
from tests.in_process import Web

FINE, COARSE = striped(3, 4), striped(3, 13)
FILES = [("samples", (f"{index}.png", content)) for index, content in enumerate(FINE + COARSE)]
LABELS = ["fine"] * 3 + ["coarse"] * 3


def adapt(web: Web, publish: str) -> None:
    form = {"client": "line", "labels": LABELS, "publish": publish, "steps": "1"}
    assert web("POST", "/adapt", data=form, files=FILES).status_code == 201


def predict(web: Web, *images: bytes, **fields: Any) -> Any:
    files = [("images", (f"{index}.png", image)) for index, image in enumerate(images)]
    answer = web("POST", "/predict", data={"client": "line", **fields}, files=files)
    assert answer.status_code == 200, answer.json()
    return answer


def logged(web: Web, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = web("GET", f"/clients/line/predictions{query}").json()["predictions"]
    return found


def test_what_was_judged_is_logged_from_when_the_client_wants_it(web: Web) -> None:
    adapt(web, "always")
    predict(web, FINE[0])
    web("PATCH", "/clients/line/settings", json={"log_predictions": True})
    two = predict(web, FINE[0], COARSE[0], parts=["0417", " "], station="camera-3")
    raw = web("POST", "/predict?client=line&part=0418", content=COARSE[1], headers={"Content-Type": "image/png"})
    explained = predict(web, FINE[1], part="0419", explain="true", version="1")
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(FINE[1]).decode()]}
    inferred = web("POST", "/v2/models/line/infer", json={"inputs": [tensor]})
    web("PATCH", "/clients/line/settings", json={"log_predictions": False})
    predict(web, FINE[2])
    web.services.recorder.close()

    protocol, newest, third, second, first = logged(web)
    assert protocol["request_id"] == inferred.headers["x-request-id"]
    assert protocol["image"] == newest["image"]
    said = two.json()["predictions"][0]
    assert first == {
        "id": first["id"],
        "at": first["at"],
        "image": hashlib.sha256(FINE[0]).hexdigest(),
        "part": "0417",
        "station": "camera-3",
        "request_id": two.headers["x-request-id"],
        "version": 1,
        "candidate": None,
        **{name: said[name] for name in ("label", "confidence", "unknown_score", "verdict")},
    }
    assert (second["part"], second["image"]) == (None, hashlib.sha256(COARSE[0]).hexdigest())
    assert (third["part"], third["request_id"]) == ("0418", raw.headers["x-request-id"])
    assert (newest["part"], newest["request_id"]) == ("0419", explained.headers["x-request-id"])
    assert logged(web, "?part=0418") == [third]
    assert logged(web, "?station=%20camera-3&label=%20fine&part=0417") == [first]
    assert logged(web, f"?image={hashlib.sha256(FINE[0]).hexdigest()}&station=camera-3") == [first]
    assert logged(web, f"?to={first['at'].replace('+00:00', 'Z')}") == []
    answer = web("GET", "/clients/line/predictions?part=0417", headers={"Accept": "text/csv"})
    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert (row["part"], row["label"], row["candidate_version"]) == ("0417", first["label"], "")
    assert "anole_predictions_logged_total 5.0" in web("GET", "/metrics").text


def test_a_candidate_judges_in_the_background_what_the_live_version_answers(web: Web) -> None:
    adapt(web, "always")
    adapt(web, "never")
    web("PUT", "/clients/line/aliases/candidate", json={"version": 2})
    live = predict(web, FINE[0], COARSE[0]).json()
    named = predict(web, FINE[0], version="1").json()
    as_candidate = predict(web, FINE[0], COARSE[0], alias="candidate").json()
    assert (live["version"], named["version"], as_candidate["version"]) == (1, 1, 2)
    web.services.recorder.close()

    entries = list(reversed(logged(web)))
    assert [entry["version"] for entry in entries] == [1, 1]
    for entry, answered, compared in zip(entries, live["predictions"], as_candidate["predictions"], strict=True):
        assert entry["label"] == answered["label"]
        names = ("label", "confidence", "unknown_score", "verdict")
        assert entry["candidate"] == {"version": 2, **{name: compared[name] for name in names}}
    assert "anole_candidate_judged_total 2.0" in web("GET", "/metrics").text


def test_parts_that_do_not_fit_the_images_are_rejected(web: Web) -> None:
    adapt(web, "always")

    def code(**fields: Any) -> str:
        files = [("images", ("a.png", FINE[0])), ("images", ("b.png", FINE[1]))]
        found: str = web("POST", "/predict", data={"client": "line", **fields}, files=files).json()["code"]
        return found

    assert code(parts=["1"]) == "part_count_mismatch"
    assert code(parts=["1", "2"], part=["1", "2"]) == "fields_conflict"
    assert code(parts=["1", "x" * 65]) == "invalid_name"
    assert code(station="x" * 65) == "invalid_name"
    assert web("GET", "/clients/line/predictions?image=short").json()["code"] == "parameter_invalid"
    assert web("GET", "/clients/line/predictions?since=now").json()["code"] == "field_unknown"
