"""A service started with `make run`, for the commands of the README."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).parents[2]
START_LIMIT_S = 120
STOP_LIMIT_S = 60


@dataclass(frozen=True)
class Served:
    """A running service: its URL, the folder of its store and its output so far."""

    url: str
    data: Path
    printed: list[str]


def clean_environment() -> dict[str, str]:
    """Return the environment without variables of an outer make or an outer service."""
    inherited = ("MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS", "PORT", "DATA")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in inherited and (not name.startswith("ANOLE_") or name == "ANOLE_DATA_ROOT")
    }


def collect(stream: IO[str], printed: list[str], announced: threading.Event) -> None:
    """Read until the stream ends, so that the service never blocks on its output."""
    for line in stream:
        printed.append(line)
        if " serves on http://" in line:
            announced.set()
    announced.set()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Start a service on TEST_PORT, or on a free port if that is not set, with an empty store."""
    data = tmp_path_factory.mktemp("served") / "data"
    command = ["make", "run", f"PORT={os.environ.get('TEST_PORT') or 0}", f"DATA={data}"]
    printed: list[str] = []
    announced = threading.Event()
    with subprocess.Popen(
        command, cwd=ROOT, env=clean_environment(), text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        reader = threading.Thread(target=collect, args=(process.stdout, printed, announced), daemon=True)
        reader.start()
        try:
            announced.wait(START_LIMIT_S)
            found = re.search(r"serves on (http://\S+)", "".join(printed))
            if not found:
                pytest.fail(f"`{' '.join(command)}` did not start:\n{''.join(printed)}", pytrace=False)
            yield Served(found[1], data, printed)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(STOP_LIMIT_S)
            reader.join(STOP_LIMIT_S)
