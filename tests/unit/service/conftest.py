"""The real HTTP application with fake use cases, called in this process."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator

import pytest
import structlog

from service.http.app import create_app
from service.settings import Settings, load_settings
from service.usecases.keys import KeyCache
from tests.in_process import InProcess, Web, started
from tests.unit.service.fakes import FakeServices


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Restore the logging configuration after a test that changes it. A captured stream is closed after its test."""
    root = logging.getLogger()
    handlers, level, config = list(root.handlers), root.level, structlog.get_config()
    yield
    root.handlers, root.level = handlers, level
    structlog.configure(**config)


@pytest.fixture
def settings() -> Settings:
    return load_settings(
        adapt_body_bytes=64 * 1024, file_bytes=16 * 1024, max_files=8, adapt_running=3, adapt_waiting=0, predict_s=2
    )


@pytest.fixture
def services() -> FakeServices:
    return FakeServices()


@pytest.fixture
def web(settings: Settings, services: FakeServices) -> Iterator[Web]:
    with started(create_app(settings, lambda _: services), services) as web:
        yield web


@pytest.fixture
def in_process(web: Web) -> InProcess:
    """Return a transport that connects a blocking client to the application of `web`."""
    return InProcess(web)


@pytest.fixture
def two_versions(web: Web) -> Web:
    """The client `line` with versions 1 and 2, of which the second is live."""
    assert web.adapt().status_code == 201
    assert web.adapt().status_code == 201
    return web


@pytest.fixture
def guarded(settings: Settings, services: FakeServices) -> Iterator[Web]:
    """A service that requires a key."""
    services.keys = KeyCache(services.kept_keys, open_without_keys=False, clock=itertools.count(0.0, 10.0).__next__)
    with started(create_app(settings, lambda _: services), services) as web:
        yield web
