"""Requests generated from the OpenAPI description against a running service."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import serving
from tests.fuzz.conftest import cases, resident_mib, seed
from tests.generated import tiny_checkpoint_in

KEY = f"anole_fuzzfuzz_{'k' * 43}"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
GROWTH_MIB = 64.0
LIMIT_S = 3600


@pytest.mark.slow
def test_requests_generated_from_the_description_are_answered_as_described(
    tmp_path: Path, print_line: Callable[[str], None]
) -> None:
    environment = {"ANOLE_BOOTSTRAP_KEY": KEY, "ANOLE_KEY_RATE_PER_S": "1000000", "ANOLE_LOG_LEVEL": "error"}
    with serving(tmp_path / "data", tiny_checkpoint_in(tmp_path), **environment) as service:
        before_mib = resident_mib(service.process.pid)
        command = [
            str(Path(sys.executable).parent / "schemathesis"), "run", f"{service.url}/openapi.json",
            "--header", f"X-API-Key: {KEY}", "--checks", CHECKS, "--phases", "examples,coverage,fuzzing",
            "--max-examples", str(cases("routes", 2)), "--seed", str(seed()), "--continue-on-failure", "--no-shrink",
            "--generation-database", "none", "--warnings", "off", "--suppress-health-check", "all",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, timeout=LIMIT_S, check=False)
        grown_mib = resident_mib(service.process.pid) - before_mib
        assert done.returncode == 0, done.stdout + done.stderr
        (made,) = re.findall(r"(\d+) generated, \d+ passed", done.stdout)
        print_line(f"{int(made):,} requests made from the description; the process grew by {grown_mib:.1f} MiB")
        assert service.process.poll() is None
        assert httpx.get(f"{service.url}/readyz").status_code == 200
        assert not [line for line in service.printed if '"error"' in line]
        assert grown_mib < GROWTH_MIB
