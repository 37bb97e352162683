"""Runs `anole serve` in a separate process on a free port with an empty store, and removes it at the end.

The service has its normal configuration: one worker, a log line per request, and every write synced to disk.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from models.errors import AnoleError

START_LIMIT_S: Final = 120.0
STOP_LIMIT_S: Final = 30.0

_COMMAND: Final = Path(sys.executable).with_name("anole")
_LOG_LINES_SHOWN: Final = 20


class ServiceNotStarted(AnoleError):
    """The service exited or did not start in time; the message has the end of its log."""


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """How a service is started.

    Attributes:
        checkpoint: shipped name, or path to one.
        device: auto, cpu or cuda.
        torch_threads: threads inside one operation, for the record; a service always has one.
        folder: where the store is written, which decides what a sync costs; None is the system's temporary folder.
        environment: further settings. All requests of a benchmark come from one address, so the limits per
            address are lifted unless they are set here.
    """

    checkpoint: str
    device: str = "cpu"
    torch_threads: int = 1
    folder: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunningService:
    """Address and process of a service."""

    url: str
    pid: int

    def cpu_seconds(self) -> float | None:
        """Processor time of all threads so far; None without /proc."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            return None
        user, system = int(fields[11]), int(fields[12])
        return (user + system) / os.sysconf("SC_CLK_TCK")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `chosen_options` reads."""
    group = parser.add_argument_group("the service")
    group.add_argument("--model", default="surfaces", help="shipped checkpoint, or path to one (default: surfaces)")
    group.add_argument(
        "--device", default="cpu", choices=("auto", "cpu", "cuda"), help="where it computes (default: cpu)"
    )
    group.add_argument(
        "--folder", type=Path, default=None, help="where the store is written (default: temporary files')"
    )


def chosen_options(arguments: argparse.Namespace) -> ServiceOptions:
    """Options from the command line."""
    return ServiceOptions(arguments.model, arguments.device, folder=arguments.folder)


@contextmanager
def serving(options: ServiceOptions) -> Iterator[RunningService]:
    """Context manager for a running service; its store is deleted at the end.

    Raises:
        ServiceNotStarted: it did not become ready.
    """
    with tempfile.TemporaryDirectory(prefix="anole-benchmark-", dir=options.folder) as folder:
        log = Path(folder) / "log"
        process = _started(options, Path(folder) / "data", log)
        try:
            url = _address(process, log)
            _wait_until_ready(url)
            yield RunningService(url, process.pid)
        finally:
            _stop(process)


def _started(options: ServiceOptions, data: Path, log: Path) -> subprocess.Popen[str]:
    if not _COMMAND.exists():
        raise ServiceNotStarted(f"{_COMMAND} does not exist; install the project into this environment first")
    arguments = ["serve", "--port", "0", "--data", str(data), "--model", options.checkpoint, "--device", options.device]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANOLE_")}
    environment |= {"ANOLE_DEMO": "false", "ANOLE_DRAIN_S": "0"}
    environment |= {"ANOLE_KEY_RATE_PER_S": "1000000", "ANOLE_KEY_IN_FLIGHT": "10000", **options.environment}
    with log.open("w") as errors:
        return subprocess.Popen(
            [_COMMAND, *arguments], env=environment, text=True, stdout=subprocess.PIPE, stderr=errors
        )


def _address(process: subprocess.Popen[str], log: Path) -> str:
    """Wait for the service to print its address; kill it after the timeout."""
    watchdog = threading.Timer(START_LIMIT_S, process.kill)
    watchdog.start()
    try:
        for line in process.stdout or ():
            found = re.search(r"serves on (http://\S+)", line)
            if found:
                return found[1]
    finally:
        watchdog.cancel()
    said = "\n".join(log.read_text().splitlines()[-_LOG_LINES_SHOWN:])
    raise ServiceNotStarted(f"the service exited or printed no address within {START_LIMIT_S:.0f} s:\n{said}")


def _wait_until_ready(url: str) -> None:
    """Wait until the service answers; its port is open already."""
    answer = httpx.get(f"{url}/readyz", timeout=START_LIMIT_S)
    if answer.status_code != httpx.codes.OK:
        raise ServiceNotStarted(f"{url}/readyz answers {answer.status_code}: {answer.text}")


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()
