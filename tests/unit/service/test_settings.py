"""Settings: where they come from, and one-line errors for invalid ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.errors import InvalidSettings
from service.settings import Settings, export_to_workers, load_settings, worker_folder


def test_arguments_take_precedence_over_the_environment_and_that_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOLE_PORT", "9000")
    monkeypatch.setenv("ANOLE_DEVICE", "cpu")
    settings = load_settings(port=9001, device=None)
    assert (settings.port, settings.device, settings.host) == (9001, "cpu", "127.0.0.1")


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = load_settings()
    assert (settings.host, settings.port, settings.data) == ("127.0.0.1", 8000, Path("data"))
    assert (settings.device, settings.model, settings.demo) == ("auto", ("efficientnet-lite0",), True)
    assert settings.adapt_body_bytes == 32 * 1024 * 1024


def test_every_setting_has_a_description() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        setattr(load_settings(), "port", 1)  # noqa: B010 - the type checker knows it already


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ANOLE_PORT", "http", "environment variable ANOLE_PORT is 'http'"),
        ("ANOLE_PORT", "70000", "65535"),
        ("ANOLE_DEVICE", "gpu", "'auto', 'cpu' or 'cuda'"),
        ("ANOLE_PROT", "1", "unknown environment variable ANOLE_PROT"),
        ("ANOLE_DRAIN_S", "nan", "ANOLE_DRAIN_S"),
        ("ANOLE_META_MODEL", "surfaces", "ANOLE_META_MODEL is no longer a setting (it is called ANOLE_MODEL now)"),
        ("ANOLE_MIN_SIDE", "8", "ANOLE_MIN_SIDE is no longer a setting (16 pixels); unset it"),
    ],
)
def test_an_invalid_variable_is_reported_with_the_allowed_values(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings, match=r"^[^\n]*$") as caught:
        load_settings()
    assert message in str(caught.value)


def test_an_invalid_argument_is_reported_as_a_setting() -> None:
    with pytest.raises(InvalidSettings, match="setting workers is 0"):
        load_settings(workers=0)


def test_workers_read_the_same_settings_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    models = ["surfaces", str(tmp_path / "mine.safetensors")]
    given = load_settings(port=1234, data=tmp_path, demo=False, drain_s=0.5, log_level="error", model=models)
    for name in Settings.model_fields:
        monkeypatch.setenv(f"ANOLE_{name.upper()}", "")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    assert worker_folder() is None
    export_to_workers(given, tmp_path)
    assert load_settings() == given
    assert worker_folder() == tmp_path


def test_models_are_separated_by_commas_and_there_is_at_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOLE_MODEL", "surfaces, data/mine.safetensors")
    assert load_settings().model == ("surfaces", "data/mine.safetensors")
    assert load_settings(model=["paper", "omniglot"]).model == ("paper", "omniglot")
    monkeypatch.setenv("ANOLE_MODEL", " , ")
    with pytest.raises(InvalidSettings, match="ANOLE_MODEL"):
        load_settings()


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOLE_PORT", "")
    assert load_settings().port == 8000


def test_workers_get_no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(f"ANOLE_{name.upper()}", "")
    monkeypatch.setenv("ANOLE_BOOTSTRAP_KEY", "secret")
    monkeypatch.setenv("ANOLE_API_KEY", "secret")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    export_to_workers(load_settings(), tmp_path)
    assert "ANOLE_BOOTSTRAP_KEY" not in os.environ
    assert load_settings().api_key is None


def test_workers_get_the_catalog_url_and_it_is_not_printed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = "postgresql://anole:hunter2@db/anole"
    settings = load_settings(catalog_url=url)
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in settings.model_dump_json()
    monkeypatch.setattr(os, "environ", {})
    export_to_workers(settings, tmp_path)
    assert load_settings() == settings
