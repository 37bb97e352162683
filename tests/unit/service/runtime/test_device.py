"""Which device is used, and when torch is asked."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from models.checkpoint import load_checkpoint
from service.errors import InvalidSettings
from service.runtime import device
from service.settings import load_settings


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has the driver of a GPU."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: None)


@pytest.mark.parametrize(("gpus", "wanted", "used"), [(1, "auto", "cuda"), (0, "auto", "cpu"), (1, "cpu", "cpu")])
def test_a_gpu_is_used_if_torch_finds_one_and_the_cpu_was_not_wanted(
    gpus: int, wanted: str, used: str, driver: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    assert device.pick_device(wanted) == torch.device(used)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "wanted", "used"),
    [
        ("efficientnet-lite0", "auto", "cpu"),
        ("efficientnet-lite0", "cuda", "cuda"),
        ("omniglot", "auto", "cuda"),
        ("omniglot", "cpu", "cpu"),
    ],
)
def test_auto_leaves_the_default_model_on_the_cpu(
    name: str, wanted: str, used: str, driver: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.device_for(load_checkpoint(name), wanted) == torch.device(used)  # type: ignore[arg-type]


def test_auto_puts_the_default_model_without_its_graph_on_the_gpu(
    driver: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    without = replace(load_checkpoint("efficientnet-lite0"), onnx_graph=None)
    assert device.device_for(without, "auto") == torch.device("cuda")


@pytest.mark.parametrize(
    ("models", "wanted", "used"),
    [
        ("efficientnet-lite0", "auto", "cpu"),
        ("efficientnet-lite0,omniglot", "auto", "cuda"),
        ("omniglot", "auto", "cuda"),
        ("efficientnet-lite0", "cuda", "cuda"),
        ("omniglot", "cpu", "cpu"),
    ],
)
def test_a_service_is_on_the_gpu_if_any_of_its_models_is(
    models: str, wanted: str, used: str, driver: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    settings = load_settings(model=models, device=wanted)
    assert device.service_device_type(settings.model, settings.device) == used
    on = {device.device_for(load_checkpoint(name), settings.device).type for name in settings.model}
    assert ("cuda" in on) == (used == "cuda")


def test_a_service_without_settings_is_on_the_cpu(driver: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    settings = load_settings()
    assert device.service_device_type(settings.model, settings.device) == "cpu"


def test_a_gpu_that_torch_does_not_find_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InvalidSettings, match="torch finds no GPU"):
        device.device_type("cuda")


def test_a_supervisor_counts_its_workers_without_torch() -> None:
    program = """
import sys
from service.cli import serve
from service.settings import load_settings
serve.usable_cores = lambda: 4
assert serve.worker_count(load_settings(device="cpu")) == 2
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
