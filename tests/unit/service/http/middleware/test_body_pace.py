"""Slow bodies: an honest slow sender has the time that its bytes need; others get 408 with the setting to change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from service.http.app import create_app
from service.http.middleware.limits import BodyPace
from service.settings import load_settings
from tests.in_process import started
from tests.unit.service.fakes import FakeServices

FORM = {"Content-Type": "multipart/form-data; boundary=x"}
KIBIBYTE = 1024


async def stalling() -> AsyncIterator[bytes]:
    yield b"--x\r\n"
    await anyio.sleep_forever()


async def dripping() -> AsyncIterator[bytes]:
    yield b"--x\r\nContent-Disposition: form-data; name=samples; filename=a\r\n\r\n"
    while True:
        yield b"."
        await anyio.sleep(0)


def send(services: FakeServices, content: AsyncIterator[bytes], path: str, **settings: Any) -> Any:
    with started(create_app(load_settings(**settings), lambda _: services), services) as web:
        return web("POST", path, content=content, headers=FORM)


@pytest.mark.parametrize("path", ["/predict", "/adapt"])
def test_a_body_that_pauses_gets_408_with_the_setting_for_pauses(services: FakeServices, path: str) -> None:
    response = send(services, stalling(), path, body_idle_s=0.01)
    assert (response.status_code, response.json()["code"]) == (408, "body_too_slow")
    assert "ANOLE_BODY_IDLE_S" in response.json()["detail"]
    assert "5 bytes arrived" in response.json()["detail"]
    assert response.headers["connection"] == "close"


def test_a_body_that_drips_gets_408_with_the_settings_for_the_rate(services: FakeServices) -> None:
    response = send(services, dripping(), "/adapt", body_s=0.01, body_bytes_per_s=4096 * KIBIBYTE)
    assert (response.status_code, response.json()["code"]) == (408, "body_too_slow")
    assert "ANOLE_BODY_S" in response.json()["detail"]
    assert "ANOLE_BODY_BYTES_PER_S" in response.json()["detail"]


def test_a_body_has_the_time_that_its_bytes_need_at_the_lowest_rate() -> None:
    pace = BodyPace(body_s=30, bytes_per_s=32 * KIBIBYTE)
    assert all(pace.left_s(seconds, 150_000 * seconds) >= 30 for seconds in range(200))
    assert pace.left_s(30, 0) == 0
    assert pace.left_s(31, 32 * KIBIBYTE) == 0
    assert pace.left_s(61, 31 * 32 * KIBIBYTE) == 0


def test_a_complete_body_has_no_time_limit_for_its_response(services: FakeServices) -> None:
    async def whole() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="client"\r\n\r\nline\r\n--x--\r\n'

    assert send(services, whole(), "/predict", body_s=1000).json()["code"] == "field_missing"
