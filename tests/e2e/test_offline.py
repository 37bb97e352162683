"""The service works without a network: one of its tests runs in an empty network namespace, if the system allows it."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests.e2e.conftest import ROOT, START_LIMIT_S, clean_environment

UNSHARE = ["unshare", "--user", "--map-root-user", "--net"]
PART = "tests/e2e/test_service_process.py::test_sigterm_finishes_running_requests_and_then_the_process"


def can_unshare() -> bool:
    """Return whether this system allows network namespaces."""
    if not shutil.which("unshare"):
        return False
    return subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_unshare(), reason="this system does not allow network namespaces")
def test_the_service_adapts_and_predicts_with_only_the_loopback_interface() -> None:
    command = [*UNSHARE, sys.executable, "-m", "tests.offline", "-q", "-p", "no:cacheprovider", PART]
    done = subprocess.run(
        command, cwd=ROOT, env=clean_environment(), text=True, capture_output=True, timeout=START_LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
