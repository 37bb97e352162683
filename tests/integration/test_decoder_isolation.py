"""The whole service with a decoder that crashes on command: only the request with the bad image fails."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest

from service import bootstrap
from service.http.app import create_app
from service.runtime.decoder_pool import DecoderPool
from service.settings import Settings
from tests.generated import striped
from tests.in_process import Web, started

FAILING = "tests.unit.service.runtime.failing_decoder"
FILES = [("samples", (f"{index}.png", content)) for index, content in enumerate(striped(2, 4) + striped(2, 13))]
LABELS = ["fine", "fine", "coarse", "coarse"]


@pytest.fixture
def failing(isolating: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(bootstrap, "DecoderPool", functools.partial(DecoderPool, program=FAILING))
    services = bootstrap.build(isolating)
    with started(create_app(isolating, lambda _: services), services) as web:
        yield web


def test_an_image_that_crashes_the_decoder_fails_its_own_request_only(failing: Web) -> None:
    response = failing("POST", "/adapt", data={"client": "line", "labels": LABELS, "publish": "always"}, files=FILES)
    assert response.status_code == 201, response.text
    for _ in range(3):
        bad = [("images", ("good.png", striped(1, 4)[0])), ("images", ("bad.png", b"die"))]
        response = failing("POST", "/predict", data={"client": "line"}, files=bad)
        assert (response.status_code, response.json()["code"]) == (422, "image_undecodable")
        assert response.json()["detail"].startswith("bad.png: ")
        good = failing("POST", "/predict", data={"client": "line"}, files=[("images", ("a.png", striped(1, 4)[0]))])
        assert good.status_code == 200
    metrics = failing("GET", "/metrics").text
    assert "anole_decoder_processes_lost_total 2.0" in metrics
    assert "anole_decoder_images_quarantined 1.0" in metrics


def test_a_sample_that_crashes_the_decoder_makes_no_version(failing: Web) -> None:
    files = [*FILES, ("samples", ("bad.png", b"die"))]
    response = failing("POST", "/adapt", data={"client": "line", "labels": [*LABELS, "fine"]}, files=files)
    assert (response.status_code, response.json()["code"]) == (422, "image_undecodable")
    assert failing("GET", "/clients/line").status_code == 404
