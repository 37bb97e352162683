"""The command line, run in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from service.cli import connection
from service.cli import main as cli
from service.client import Client
from tests.in_process import Web

PNG = b"\x89PNG"
Anole = Callable[..., tuple[int, str, str]]


@pytest.fixture
def anole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Anole:
    """Return a function that runs a command line and returns exit code, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["anole", *arguments])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as exited:
            cli.main()
        captured = capsys.readouterr()
        lines = [line for line in captured.out.splitlines() if "[info" not in line]
        return int(exited.value.code or 0), "\n".join(lines), captured.err

    return run


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, web: Web, in_process: httpx.BaseTransport) -> Web:
    monkeypatch.setattr(
        connection, "connect", lambda url, key: Client("http://127.0.0.1", key=key, transport=in_process)
    )
    return web


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("good/1.png", "bad/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(PNG)
    return tmp_path
