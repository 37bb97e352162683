"""The routes of the prediction log and of the candidate: pages, filters and what moved."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from service.domain.prediction_log import Judgement, LoggedPrediction
from tests.in_process import PNG, Web
from tests.unit.service.fakes import NOON


def entry(number: int) -> LoggedPrediction:
    said = Judgement(1, "scratch", 0.75, 0.25, "known")
    at = NOON + timedelta(minutes=number)
    return LoggedPrediction(
        "line", NOON, at, "b" * 64, None, None, None, said, Judgement(2, "dent", 1, None, "known"), number
    )


def ids(entries: Any) -> list[int]:
    return [each["id"] for each in entries]


def test_the_log_is_answered_in_pages(two_versions: Web) -> None:
    judged = two_versions.services.judged
    judged.logged = [entry(3), entry(2), entry(1)]
    first = two_versions("GET", "/clients/line/predictions?limit=2&part=%200417&verdict=known&version=1")
    assert ids(first.json()["predictions"]) == [3, 2]
    assert first.json()["predictions"][0]["candidate"]["label"] == "dent"
    last = two_versions("GET", first.headers["link"][1:].partition(">")[0])
    assert ids(last.json()["predictions"]) == [1]
    query = judged.queries[-1]
    assert (query.part, query.verdict, query.version, query.after) == ("0417", "known", 1, 2)
    assert two_versions("GET", "/clients/missing/predictions").json()["code"] == "unknown_client"


def test_the_comparison_with_a_candidate_has_shares_and_pages_of_changed_images(two_versions: Web) -> None:
    two_versions.services.judged.logged = [entry(2), entry(1)]
    answer = two_versions("GET", "/clients/line/versions/1/shadow/2?limit=1")
    report = answer.json()
    assert (report["images"], report["agreement"], report["interval"]) == (4, 0.75, [0.2, 0.9])
    assert (report["unknown"], report["candidate_unknown"]) == (0.5, 0.25)
    assert ids(report["changed"]) == [2]
    assert answer.headers["link"] == '</clients/line/versions/1/shadow/2?limit=1&after=2>; rel="next"'
    assert two_versions("GET", "/clients/line/versions/7/shadow/2").json()["code"] == "unknown_version"


def test_a_promotion_says_what_moved(two_versions: Web) -> None:
    assert two_versions("POST", "/clients/line/promote").json()["code"] == "unknown_alias"
    two_versions("PUT", "/clients/line/aliases/candidate", json={"version": 1})
    moved = two_versions("POST", "/clients/line/promote").json()
    assert (moved["alias"], moved["version"], moved["previous"], moved["reason"]) == ("live", 1, 2, "promote")
    assert two_versions("POST", "/clients/line/promote").json() == moved


def test_parts_and_station_are_passed_to_the_log(two_versions: Web) -> None:
    files = [("images", ("a.png", PNG)), ("images", ("b.png", PNG))]
    form = {"client": "line", "parts": [" 0417 ", ""], "station": "camera"}
    answer = two_versions("POST", "/predict", data=form, files=files)
    (origin,) = two_versions.services.recorder.origins
    assert (origin.parts, origin.station) == (("0417", ""), "camera")
    assert origin.request_id == answer.headers["x-request-id"]


def test_the_list_of_clients_says_which_drift_if_it_is_asked(two_versions: Web) -> None:
    for client in ("other", "quiet"):
        two_versions.adapt(client)
    listed = two_versions("GET", "/clients?drift=true&limit=2")
    assert [client["drifting"] for client in listed.json()["clients"]] == [True, False]
    last = two_versions("GET", listed.headers["link"].partition(">")[0].strip("<")).json()
    assert [client["drifting"] for client in last["clients"]] == [None]
    assert {client["drifting"] for client in two_versions("GET", "/clients").json()["clients"]} == {None}


def test_drift_names_the_share_that_is_above_what_validation_lets_expect(two_versions: Web) -> None:
    answer = two_versions("GET", "/clients/line/drift?hours=12").json()
    assert (answer["version"], answer["drifting"], answer["expected"]) == (2, True, {"unknown": 0.1, "errors": 0.25})
    period = {"since": "2026-03-01T12:00:00Z", "images": 100, "unknown": 0.4, "errors": 0.02, "above": ["unknown"]}
    assert (answer["total"], answer["hours"]) == (period, [period])
    assert two_versions("GET", "/clients/line/drift?hours=0").json()["code"] == "parameter_invalid"
