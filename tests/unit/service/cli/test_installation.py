"""The command line of the client alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from service.cli import connection
from tests.unit.service.cli.conftest import Anole


@pytest.mark.parametrize("command", ["serve", "keys", "keys create", "keys list", "store", "store check", "adapt"])
def test_the_client_alone_has_the_help_of_its_commands(
    anole: Anole, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setitem(sys.modules, "service.bootstrap", None)  # as if it were not installed
    code, printed, error = anole(*command.split(), "--help")
    assert (code, error) == (0, "")
    assert f" {command} [OPTIONS]" in printed


@pytest.mark.parametrize(
    ("what", "command"),
    [
        ("--explain", "predict line good/1.png --explain maps"),
        ("anole serve", "serve"),
        ("anole train", "train --dataset omniglot"),
        ("anole evaluate", "evaluate --checkpoint x"),
        ("anole search", "search --dataset omniglot --out x"),
        ("anole import-backbone", "import-backbone x"),
        ("anole keys create", "keys create camera --client line"),
        ("anole keys list", "keys list"),
        ("anole store check", "store check"),
        ("anole store backup", "store backup x"),
    ],
)
def test_the_client_alone_says_what_needs_the_full_installation_before_it_sends_anything(
    anole: Anole, folder: Path, monkeypatch: pytest.MonkeyPatch, what: str, command: str
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setitem(sys.modules, "service.bootstrap", None)  # as if it were not installed
    monkeypatch.setattr(connection, "connect", lambda url, key: pytest.fail("a request was made"))
    code, printed, error = anole(*command.split())
    hint = "needs the full installation: pip install . in a checkout of Anole"
    assert (code, printed, error) == (1, "", f"error: {what} {hint}\n")
    assert sorted(path.name for path in folder.iterdir()) == ["bad", "good"]
