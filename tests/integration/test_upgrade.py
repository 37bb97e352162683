"""Stores that earlier releases made serve their live versions after the upgrade.

Each zip in stores/ has the store of a service at one revision of the catalog, with one client, and what that service
predicted. It was made by the last commit with that revision, from stores/tiny.safetensors:

    ANOLE_MODEL=tiny.safetensors ANOLE_DEMO=false anole serve --data data
    POST /adapt    client=line-7, six pictures of stripes and spots, seed=1, publish=always
    POST /predict  client=line-7, images=stripes.png, images=spots.png      -> predicted.json

That of revision 0010 was made by a job, with the prediction log: predicted.json also has the job, the entries of the
log and those of the audit log.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from service import bootstrap
from service.http.app import create_app
from service.settings import Settings, load_settings
from tests.in_process import Web, started
from tests.integration.test_migrations import REVISIONS

STORES = Path(__file__).parent / "stores"
EARLIER = sorted(STORES.glob("revision-*.zip"))
PICTURES = [(name, (STORES / name).read_bytes()) for name in ("stripes.png", "spots.png")]


@dataclass(frozen=True)
class Upgraded:
    """A service on the store of an earlier release, and what that release predicted."""

    web: Web
    settings: Settings
    predicted: dict[str, Any]


@pytest.fixture(scope="module", params=EARLIER, ids=lambda path: path.stem)
def upgraded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upgraded]:
    folder = tmp_path_factory.mktemp("upgraded")
    with zipfile.ZipFile(request.param) as store:
        store.extractall(folder)
    predicted = json.loads((folder / "predicted.json").read_text(encoding="utf-8"))
    settings = load_settings(
        data=folder / "data", model=str(STORES / "tiny.safetensors"), device="cpu", demo=False, decoder_processes=0
    )
    services = bootstrap.build(settings)
    with started(create_app(settings, lambda _: services), services) as web:
        yield Upgraded(web, settings, predicted)


def test_the_live_version_predicts_what_the_earlier_release_predicted(upgraded: Upgraded) -> None:
    files = [("images", picture) for picture in PICTURES]
    answer = upgraded.web("POST", "/predict", data={"client": "line-7"}, files=files).json()
    assert (answer["version"], answer["weights_digest"]) == (1, upgraded.predicted["weights_digest"])
    for now, before in zip(answer["predictions"], upgraded.predicted["predictions"], strict=True):
        assert (now["label"], now["verdict"]) == (before["label"], before["verdict"])
        assert now["confidence"] == pytest.approx(before["confidence"], abs=1e-3)


def test_its_samples_can_be_extended_and_the_store_is_whole(upgraded: Upgraded) -> None:
    fields = {"client": "line-7", "labels": ["stripes", "spots"], "publish": "always"}
    files = [("samples", picture) for picture in PICTURES]
    answer = upgraded.web("POST", "/adapt", data=fields, files=files).json()
    assert (answer["version"], answer["parent"], answer["live"]) == (2, 1, 2)
    assert len(upgraded.web("GET", "/clients/line-7/samples").json()["samples"]) == 8
    with bootstrap.open_store(upgraded.settings) as store:
        assert store.check().whole


def test_its_records_are_read_as_they_were_written(upgraded: Upgraded) -> None:
    if "logged" not in upgraded.predicted:
        assert upgraded.web("GET", "/clients/line-7/predictions").json()["predictions"] == []
        return
    assert upgraded.web("GET", "/clients/line-7/predictions?part=0417").json()["predictions"] == [
        entry for entry in upgraded.predicted["logged"] if entry["part"] == "0417"
    ]
    before = upgraded.predicted["audit"]
    assert upgraded.web("GET", "/audit").json()["entries"][-len(before) :] == before
    job = upgraded.predicted["job"]
    assert upgraded.web("GET", f"/jobs/{job['job']}").json() == job
    assert job["state"] == "done"


def test_there_is_a_store_of_each_earlier_revision() -> None:
    found = {path.stem.removeprefix("revision-") for path in EARLIER}
    assert set(REVISIONS[1:]) <= found <= set(REVISIONS)
