"""`.ci/install` on machines that lack something. The tests need no package index."""

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


def test_an_audit_that_cannot_look_anything_up_fails_with_one_sentence() -> None:
    done = subprocess.run(
        [sys.executable, ".ci/audit"], cwd=ROOT, env={"https_proxy": "http://127.0.0.1:1"}, text=True,
        capture_output=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    (sentence,) = done.stderr.splitlines()
    assert (done.returncode, sentence.startswith("audit: no package was looked up, because")) == (1, True)


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_an_unknown_level_is_rejected_with_the_levels_that_exist(checkout: Path) -> None:
    status, output = install(checkout, "everything")
    assert status == 64
    assert "run, test, dev, docs or audit" in output


def test_an_interpreter_that_does_not_exist_is_named(checkout: Path) -> None:
    status, output = install(checkout, PYTHON="/nowhere/python3.11")
    assert status == 1
    assert "PYTHON=/nowhere/python3.11 does not exist" in output


def test_an_unusable_interpreter_is_rejected_with_the_reason(checkout: Path, tmp_path: Path) -> None:
    old = program(tmp_path / "python3.9", "echo 'is Python 3.9; 3.11 or newer is required'")
    status, output = install(checkout, PYTHON=str(old))
    assert status == 1
    assert f"PYTHON={old} is Python 3.9; 3.11 or newer is required" in output


def test_without_python_the_error_states_the_required_version(checkout: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "cat", "cksum", "dirname", "head", "grep", "rm"):
        found = shutil.which(name)
        assert found, name
        (tools / name).symlink_to(found)
    status, output = install(checkout, PATH=str(tools))
    assert status == 1
    assert "version 3.11 or newer with venv is required" in output


def test_an_unusable_environment_is_kept_if_no_python_can_replace_it(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "keep").touch()
    install(checkout, PYTHON="/nowhere/python3.11")
    assert (checkout / ".venv" / "keep").exists()


@pytest.mark.slow
def test_an_incomplete_environment_is_replaced_and_a_failing_pip_is_explained(checkout: Path) -> None:
    (checkout / ".venv" / "bin").mkdir(parents=True)
    program(checkout / ".venv" / "bin" / "python", "exit 1")
    (checkout / ".venv" / "left-over").touch()
    status, output = install(checkout, PYTHON=sys.executable, PIPARGS="--no-index --quiet")
    assert status == 1
    assert not (checkout / ".venv" / "left-over").exists()
    assert (checkout / ".venv" / "bin" / "pip").exists()
    assert "PIPARGS=" in output
    assert not list((checkout / ".venv").glob(".anole-installed-*"))
