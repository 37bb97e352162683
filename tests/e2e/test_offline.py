"""The service needs no network but the loopback: a part of its tests in a network of its own, if it can have one."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests.e2e.conftest import ROOT, START_LIMIT_S, clean_environment

CUT_OFF = ["unshare", "--user", "--map-root-user", "--net"]
PART = "tests/e2e/test_service_process.py::test_what_was_acknowledged_is_there_after_a_kill"


def separable() -> bool:
    """Whether this system lets a process have a network of its own."""
    if not shutil.which("unshare"):
        return False
    return subprocess.run([*CUT_OFF, "true"], check=False, capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not separable(), reason="this system does not let a process have a network of its own")
def test_the_service_adapts_and_predicts_where_nothing_but_the_loopback_is() -> None:
    command = [*CUT_OFF, sys.executable, "-m", "tests.offline", "-q", "-p", "no:cacheprovider", PART]
    done = subprocess.run(
        command, cwd=ROOT, env=clean_environment(), text=True, capture_output=True, timeout=START_LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
