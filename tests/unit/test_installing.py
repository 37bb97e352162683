"""What `.ci/install` says and does where a machine is not as it should be; can_access no index."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 120


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in ("pyproject.toml", "constraints.txt", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / ".ci", folder / ".ci")
    return folder


def install(checkout: Path, level: str = "run", **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [checkout / ".ci" / "install", level],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=LIMIT_S,
        check=False,
    )
    return done.returncode, done.stdout


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_an_unknown_level_is_refused_with_those_that_exist(checkout: Path) -> None:
    status, said = install(checkout, "everything")
    assert status == 64
    assert "run, test or dev" in said


def test_an_interpreter_that_is_not_there_is_named(checkout: Path) -> None:
    status, said = install(checkout, PYTHON="/nowhere/python3.11")
    assert status == 1
    assert "PYTHON=/nowhere/python3.11 is not there" in said


def test_an_interpreter_that_will_not_do_is_refused_in_its_own_words(checkout: Path, tmp_path: Path) -> None:
    old = program(tmp_path / "python3.9", "echo 'is Python 3.9, and 3.11 or newer is needed'")
    status, said = install(checkout, PYTHON=str(old))
    assert status == 1
    assert f"PYTHON={old} is Python 3.9, and 3.11 or newer is needed" in said


def test_without_any_python_it_says_which_one_is_needed(checkout: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "cat", "cksum", "dirname", "head", "grep", "rm"):
        found = shutil.which(name)
        assert found, name
        (tools / name).symlink_to(found)
    status, said = install(checkout, PATH=str(tools))
    assert status == 1
    assert "version 3.11 or newer with venv is needed" in said


def test_an_unusable_environment_is_kept_until_there_is_a_python_to_replace_it(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "keep").touch()
    install(checkout, PYTHON="/nowhere/python3.11")
    assert (checkout / ".venv" / "keep").exists()


@pytest.mark.slow
def test_a_half_made_environment_is_made_again_and_a_pip_that_fails_is_explained(checkout: Path) -> None:
    (checkout / ".venv" / "bin").mkdir(parents=True)
    program(checkout / ".venv" / "bin" / "python", "exit 1")
    (checkout / ".venv" / "left-over").touch()
    status, said = install(checkout, PYTHON=sys.executable, PIPARGS="--no-index --quiet")
    assert status == 1
    assert not (checkout / ".venv" / "left-over").exists()
    assert (checkout / ".venv" / "bin" / "pip").exists()
    assert "PIPARGS=" in said
    assert not list((checkout / ".venv").glob(".anole-installed-*"))
