"""The routes of stored samples, with fake use cases."""

from __future__ import annotations

import pytest

from service.domain.report import HeldOutPrediction
from service.domain.version import SampleRef
from service.usecases.stored_samples import SamplePage, StoredSample
from tests.in_process import Web

DIGEST = "d" * 64


def page(*digests: str) -> SamplePage:
    judged = HeldOutPrediction("bad", 0.75, known=True)
    samples = [
        StoredSample(SampleRef(digest, "good", f"{digest[0]}.png", "17"), 1, judged, suspect=True) for digest in digests
    ]
    return SamplePage(2, samples)


def test_a_sample_is_listed_with_all_fields_of_the_contract(two_versions: Web) -> None:
    two_versions.services.samples.page_of = page(DIGEST)
    assert two_versions("GET", "/clients/line/samples").json() == {
        "client": "line",
        "version": 2,
        "retained": True,
        "samples": [
            {
                "digest": DIGEST,
                "label": "good",
                "name": "d.png",
                "part": "17",
                "first_version": 1,
                "held_out": {"predicted": "bad", "confidence": 0.75, "correct": False},
                "suspect": True,
            }
        ],
    }


def test_a_page_links_to_the_samples_that_follow(two_versions: Web) -> None:
    two_versions.services.samples.page_of = page("a" * 64, "b" * 64, "c" * 64)
    response = two_versions("GET", "/clients/line/samples?limit=2&label=good&version=1")
    assert len(response.json()["samples"]) == 2
    assert response.links["next"]["url"] == f"/clients/line/samples?label=good&version=1&limit=2&after={'b' * 64}"
    assert two_versions.services.samples.calls == [{"label": "good", "version": 1, "after": "", "limit": 3}]
    two_versions.services.samples.page_of = page("c" * 64)
    assert "next" not in two_versions("GET", response.links["next"]["url"]).links


def test_a_label_is_compared_as_it_is_stored(two_versions: Web) -> None:
    two_versions("GET", "/clients/line/samples", params={"label": " u\u0308ber "})
    assert two_versions.services.samples.calls[0]["label"] == "\u00fcber"
    two_versions("GET", "/clients/line/samples", params={"label": ""})  # a form with an empty field
    assert two_versions.services.samples.calls[1]["label"] is None
    response = two_versions("GET", "/clients/line/samples", params={"label": "\u202e"})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_name")


def test_a_picture_is_named_by_its_digest_and_the_caller_asks_for_it_each_time(two_versions: Web) -> None:
    response = two_versions("GET", f"/clients/line/samples/{DIGEST}?side=96")
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
    assert response.content == f"{DIGEST} 96".encode()
    assert response.headers["etag"] == f'"{DIGEST}-96"'
    assert response.headers["cache-control"] == "private, no-cache"
    whole = two_versions("GET", f"/clients/line/samples/{DIGEST}")
    assert (whole.content, whole.headers["etag"]) == (f"{DIGEST} None".encode(), f'"{DIGEST}"')


def test_a_picture_that_the_caller_has_is_not_sent_again(two_versions: Web) -> None:
    path = f"/clients/line/samples/{DIGEST}"
    etag = two_versions("GET", path).headers["etag"]
    again = two_versions("GET", path, headers={"If-None-Match": f'"other", {etag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert two_versions("GET", path, headers={"If-None-Match": "*"}).status_code == 304
    assert two_versions("GET", path, headers={"If-None-Match": '"other"'}).status_code == 200
    two_versions("DELETE", "/clients/line")
    assert two_versions("GET", path, headers={"If-None-Match": etag}).status_code == 404


@pytest.mark.parametrize("digest", ["0" * 64, "x", "D" * 64, "%2e%2e"])
def test_a_digest_that_the_client_does_not_have_is_unknown(two_versions: Web, digest: str) -> None:
    response = two_versions("GET", f"/clients/line/samples/{digest}")
    assert (response.status_code, response.json()["code"]) == (404, "unknown_sample")


@pytest.mark.parametrize("side", ["15", "513", "x", ""])
def test_a_side_out_of_range_is_rejected(two_versions: Web, side: str) -> None:
    response = two_versions("GET", f"/clients/line/samples/{DIGEST}", params={"side": side})
    assert (response.status_code, response.json()["code"]) == (422, "parameter_invalid")
