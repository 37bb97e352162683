"""The whole service in this process, with a small untrained net and generated images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service import bootstrap
from service.http.app import create_app
from service.settings import Settings, load_settings
from tests.generated import tiny_checkpoint_in
from tests.in_process import Web, started


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint_in(tmp_path_factory.mktemp("checkpoint"))


def settings_of(folder: Path, checkpoint: Path) -> Settings:
    return load_settings(data=folder / "data", model=str(checkpoint), device="cpu", demo=False)


@pytest.fixture
def settings(tiny_checkpoint: Path, tmp_path: Path) -> Settings:
    return settings_of(tmp_path, tiny_checkpoint)


@pytest.fixture(scope="module")
def shared_settings(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Return settings for a service that all tests of a module share. Starting one takes longer than most tests."""
    return settings_of(tmp_path_factory.mktemp("shared"), tiny_checkpoint)


@pytest.fixture
def web(settings: Settings) -> Iterator[Web]:
    """Start the service with an empty store."""
    services = bootstrap.build(settings)
    with started(create_app(settings, lambda _: services), services) as web:
        yield web
