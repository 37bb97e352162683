"""`anole doctor` on real folders and ports: what it finds, what it never shows, and its exit codes."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socket
import sqlite3
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from service.cli import main as cli
from service.store.open_store import CATALOG_FILE, open_embedded
from tests.integration.store_child import CLIENT, publish

STORES = Path(__file__).parent / "stores"
Doctor = Callable[..., tuple[int, dict[str, tuple[str, str]]]]


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A port that no program uses."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        free: int = listener.getsockname()[1]
    monkeypatch.setenv("ANOLE_PORT", str(free))
    return free


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, port: int) -> Doctor:
    """Runs `anole doctor` on the store in `tmp_path`; returns exit code, and status and text by check."""
    monkeypatch.setenv("ANOLE_MODEL", str(STORES / "tiny.safetensors"))
    monkeypatch.setenv("ANOLE_DEVICE", "cpu")

    def run(*arguments: str) -> tuple[int, dict[str, tuple[str, str]]]:
        monkeypatch.setattr(sys, "argv", ["anole", "doctor", "--data", str(tmp_path / "data"), "--json", *arguments])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        printed = capsys.readouterr().out
        found = json.loads(printed[printed.index("{") :])["findings"]  # before it, log lines of the store
        return int(exited.value.code or 0), {each["check"]: (each["status"], each["text"]) for each in found}

    return run


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    with open_embedded(tmp_path / "data") as store:
        publish(store, 0)
    return tmp_path / "data"


def test_a_sound_installation_passes_all_checks(doctor: Doctor, filled: Path) -> None:
    code, found = doctor()
    assert {name: status for name, (status, _) in found.items() if status != "ok"} == {}
    assert code == 0
    assert "SQLite" in found["versions"][1]
    assert found["checkpoints"][1] == "tiny dde9593fbec8"


def test_a_missing_store_is_a_warning_and_is_not_created(doctor: Doctor, tmp_path: Path) -> None:
    code, found = doctor()
    assert (code, found["store"][0]) == (0, "warning")
    assert not (tmp_path / "data").exists()


def test_a_damaged_row_is_a_failure(doctor: Doctor, filled: Path) -> None:
    with closing(sqlite3.connect(filled / CATALOG_FILE)) as database:
        database.execute("UPDATE aliases SET revision = revision + 1")
        database.commit()
    code, found = doctor()
    assert (code, found["store"][0]) == (1, "failure")
    assert "aliases" in found["store"][1]


def test_a_store_of_an_earlier_release_is_named_and_not_upgraded(doctor: Doctor, tmp_path: Path) -> None:
    with zipfile.ZipFile(STORES / "revision-0001.zip") as store:
        store.extractall(tmp_path)
    before = (tmp_path / "data" / CATALOG_FILE).read_bytes()
    code, found = doctor()
    assert (code, found["store"][0]) == (0, "warning")
    assert "earlier release" in found["store"][1]
    assert (tmp_path / "data" / CATALOG_FILE).read_bytes() == before


def test_a_clock_before_the_last_write_is_a_failure(doctor: Doctor, filled: Path) -> None:
    tomorrow_s = time.time() + 86_400
    os.utime(filled / CATALOG_FILE, (tomorrow_s, tomorrow_s))
    code, found = doctor()
    assert (code, found["clock"][0]) == (1, "failure")


def test_a_full_disk_is_a_failure(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    code, found = doctor()
    assert (code, found["disk"][0]) == (1, "failure")
    assert "507" in found["disk"][1]


def test_a_checkpoint_that_does_not_exist_is_a_failure(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOLE_MODEL", "nothing-like-this")
    code, found = doctor()
    assert (code, found["checkpoints"][0]) == (1, "failure")
    assert "nothing-like-this" in found["checkpoints"][1]


@pytest.fixture
def other_program(port: int) -> Iterator[None]:
    server = http.server.HTTPServer(("127.0.0.1", port), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("other_program")
def test_a_port_that_another_program_uses_is_a_failure(doctor: Doctor, port: int) -> None:
    code, found = doctor()
    assert (code, found["port"][0]) == (1, "failure")
    assert f"127.0.0.1:{port}" in found["port"][1]


def test_a_report_has_no_secret_and_no_name_of_a_client(
    doctor: Doctor, filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "anole_01234567_" + "ab" * 32
    monkeypatch.setenv("ANOLE_BOOTSTRAP_KEY", secret)
    monkeypatch.setenv("ANOLE_CATALOG_URL", f"sqlite:///{filled / CATALOG_FILE}?password=hidden-word")
    path = tmp_path / "report.zip"
    doctor("--bundle", str(path))
    with zipfile.ZipFile(path) as report:
        content = {name: report.read(name).decode() for name in report.namelist()}
    assert content.keys() == {"findings.json", "settings.json", "packages.txt"}
    settings: dict[str, Any] = json.loads(content["settings.json"])
    assert settings["bootstrap_key"] == settings["catalog_url"] == "**********"
    everything = "".join(content.values())
    assert secret not in everything
    assert "hidden-word" not in everything
    assert CLIENT not in everything


def test_a_report_never_overwrites_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, doctor: Doctor
) -> None:
    path = tmp_path / "report.zip"
    path.write_bytes(b"mine")
    monkeypatch.setattr(sys, "argv", ["anole", "doctor", "--data", str(tmp_path / "data"), "--bundle", str(path)])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    assert exited.value.code == 1
    assert str(path) in capsys.readouterr().err
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("model", "begins"),
    [
        ("efficientnet-lite0", "cpu (the GPU is for other models), "),
        ("efficientnet-lite0,omniglot", "cuda (cpu for the default model's net), "),
    ],
)
def test_it_says_what_runs_on_a_gpu(doctor: Doctor, monkeypatch: pytest.MonkeyPatch, model: str, begins: str) -> None:
    monkeypatch.setenv("ANOLE_MODEL", model)
    monkeypatch.setenv("ANOLE_DEVICE", "auto")
    monkeypatch.setattr("service.runtime.device.device_type", lambda wanted: "cpu" if wanted == "cpu" else "cuda")
    _, found = doctor()
    assert found["device"][1].startswith(begins)
