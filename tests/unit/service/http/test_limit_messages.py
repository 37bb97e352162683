"""The message of each limit that a deployer can change names the setting."""

from __future__ import annotations

import io
import itertools
import re
import zipfile
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from service.http.app import create_app
from service.settings import ENVIRONMENT_PREFIX, Settings, load_settings
from service.usecases.keys import KeyCache
from tests.in_process import PNG, Web, started
from tests.unit.service.fakes import FakeServices
from tests.unit.service.http.guarded import key_for

ROOT = Path(__file__).parents[4]
CLIENT = ("client", (None, b"line"))
SAMPLE = ("samples", ("a.png", PNG))
LABEL = ("labels", (None, b"good"))


def zipped(count: int, size: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(count):
            archive.writestr(f"{'good' if index % 2 else 'bad'}/{index}.png", bytes(size))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("parts", "setting"),
    [
        ([CLIENT, *[LABEL, SAMPLE] * 9], "ANOLE_MAX_FILES"),
        ([CLIENT, *[LABEL] * 41, SAMPLE], "ANOLE_MAX_FILES"),
        ([CLIENT, ("archive", ("a.zip", zipped(9, 1)))], "ANOLE_MAX_FILES"),
        ([CLIENT, ("archive", ("a.zip", zipped(8, 17_000)))], "ANOLE_ADAPT_BODY_BYTES"),
        ([CLIENT, ("archive", ("a.zip", zipped(2, 17_000)))], "ANOLE_FILE_BYTES"),
        ([CLIENT, LABEL, ("samples", ("a.png", bytes(17_000)))], "ANOLE_FILE_BYTES"),
        ([CLIENT, LABEL, ("samples", ("a.png", bytes(70_000)))], "ANOLE_ADAPT_BODY_BYTES"),
        ([CLIENT, LABEL, SAMPLE, ("steps", (None, b"101"))], "ANOLE_MAX_STEPS"),
    ],
    ids=["files", "labels", "files of an archive", "archive bytes", "entry bytes", "file bytes", "body bytes", "steps"],
)
def test_a_limit_of_a_form_to_adapt_names_its_setting(web: Web, parts: list[Any], setting: str) -> None:
    assert setting in detail(web("POST", "/adapt", files=parts))


def test_too_many_files_and_too_many_fields_have_different_messages(web: Web) -> None:
    files = detail(web("POST", "/adapt", files=[CLIENT, *[LABEL, SAMPLE] * 9]))
    fields = detail(web("POST", "/adapt", files=[CLIENT, *[LABEL] * 41, SAMPLE]))
    long_field = detail(web("POST", "/adapt", files=[CLIENT, ("mode", (None, bytes(5000)))]))
    assert files.startswith("the form has more than 8 files")
    assert fields.startswith("the form has more than 40 text fields")
    assert long_field.startswith("a text field of the form has more than 4096 bytes")


def test_a_body_to_predict_names_its_setting(settings: Settings, services: FakeServices) -> None:
    small = load_settings(predict_body_bytes=1024)
    with started(create_app(small, lambda _: services), services) as web:
        response = web("POST", "/predict?client=line", content=bytes(2000), headers={"Content-Type": "image/png"})
    assert "(ANOLE_PREDICT_BODY_BYTES)" in detail(response)


@pytest.fixture
def hanging() -> Iterator[Web]:
    """A service whose predictions and adaptations do not end, with short time limits."""
    services: Any = FakeServices()
    services.prediction.submit = services.adaptation.submit = lambda *_: Future[Any]()
    services.exports = SimpleNamespace(submit=lambda *_: Future[Any]())
    short = load_settings(predict_s=0.02, adapt_s=0.02)
    with started(create_app(short, lambda _: services), services) as web:
        yield web


def test_a_time_limit_names_its_setting(hanging: Web) -> None:
    predicted = hanging("POST", "/predict?client=line", content=PNG, headers={"Content-Type": "image/png"})
    assert "(ANOLE_PREDICT_S)" in detail(predicted)
    assert "(ANOLE_ADAPT_S)" in detail(hanging.adapt())


def test_an_export_beyond_its_time_limit_is_not_told_to_send_fewer_images(hanging: Web) -> None:
    told = detail(hanging("GET", "/clients/line/versions/1/export"))
    assert "(4 x ANOLE_ADAPT_S)" in told
    assert "raise the limit" in told
    assert "images" not in told


def test_the_rate_of_a_key_names_its_setting(services: FakeServices) -> None:
    services.keys = KeyCache(services.kept_keys, open_without_keys=False, clock=itertools.count(0.0, 10.0).__next__)
    with started(create_app(load_settings(key_rate_per_s=0.5), lambda _: services), services) as web:
        key = key_for(web)
        assert web("GET", "/clients", headers=key).status_code == 200
        assert "(ANOLE_KEY_RATE_PER_S)" in detail(web("GET", "/clients", headers=key))


def test_messages_name_only_settings_that_exist() -> None:
    settings = {ENVIRONMENT_PREFIX + name.upper() for name in Settings.model_fields}
    sources = [*(ROOT / "service").rglob("*.py"), *(ROOT / "models").rglob("*.py")]
    named = {name for path in sources for name in re.findall(r"ANOLE_[A-Z][A-Z_]*[A-Z]", path.read_text("utf-8"))}
    assert named - settings == set()


def detail(response: Any) -> str:
    """Return the detail of a problem."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    return str(response.json()["detail"])
