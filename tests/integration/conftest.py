"""The whole service in this process, with a small untrained net and generated images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from service import bootstrap
from service.http.app import create_app
from service.settings import Settings, load_settings
from tests.generated import tiny_checkpoint_in
from tests.in_process import Web, started

if TYPE_CHECKING:
    from tests.fleet_repository import Device, Files, Publisher


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint_in(tmp_path_factory.mktemp("checkpoint"))


def settings_of(folder: Path, checkpoint: Path) -> Settings:
    """Return settings for a service that decodes in this process, because each decoder process takes long to start."""
    return load_settings(data=folder / "data", model=str(checkpoint), device="cpu", demo=False, decoder_processes=0)


@pytest.fixture
def settings(tiny_checkpoint: Path, tmp_path: Path) -> Settings:
    return settings_of(tmp_path, tiny_checkpoint)


@pytest.fixture
def isolating(settings: Settings) -> Settings:
    """Return settings for a service that decodes in processes of their own, as is the default."""
    return settings.model_copy(update={"decoder_processes": Settings.model_fields["decoder_processes"].default})


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


@pytest.fixture(scope="session")
def small_fleet(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a store with two versions of a small start: signed releases are the same for every start."""
    from tests.fleet_repository import adapted_settings  # needs the extra fleet, unlike most tests

    return adapted_settings(tmp_path_factory.mktemp("fleet"), "omniglot")


@pytest.fixture(scope="session")
def fleet_files(small_fleet: Settings) -> Files:
    from tests.fleet_repository import files_of

    return files_of(small_fleet)


@pytest.fixture
def publisher(tmp_path: Path, fleet_files: Files) -> Publisher:
    from tests.fleet_repository import publisher_in

    made = publisher_in(tmp_path, fleet_files)
    made.release(1)
    return made


@pytest.fixture
def device(publisher: Publisher, tmp_path: Path) -> Device:
    """A device that runs version 1."""
    from tests.fleet_repository import device_of

    made = device_of(publisher.repository, tmp_path / "device")
    made.agent.poll()
    assert made.runs() == 1
    return made
