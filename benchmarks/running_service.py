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
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.figures import Parser, machine
from benchmarks.fixtures import DEFAULT_MODEL
from benchmarks.measuring import cpu_seconds
from models.errors import AnoleError

START_TIMEOUT_S: Final = 600.0
STOP_TIMEOUT_S: Final = 30.0

_COMMAND: Final = Path(sys.executable).with_name("anole")
_LOG_LINES_SHOWN: Final = 20
_POLL_S: Final = 0.2


class ServiceNotStarted(AnoleError):
    """The service ended or was not ready in time; the message contains the end of its log."""


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """How a service is started.

    Attributes:
        checkpoint: name of a shipped checkpoint, or path to one.
        device: auto, cpu or cuda.
        workers: serving processes.
        folder: parent folder of the store; None means the system's temporary folder. It decides the cost of a sync.
        environment: further settings. All requests of a benchmark come from one address, so the limits per address
            are raised unless they are set here.
    """

    checkpoint: str
    device: str = "cpu"
    workers: int = 1
    folder: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def machine(self) -> dict[str, Any]:
        """The machine and these options, as JSON data."""
        return machine(self.checkpoint, self.device)


@dataclass(frozen=True, slots=True)
class RunningService:
    """Address and process of a service."""

    url: str
    pid: int

    def cpu_seconds(self) -> float:
        """Processor time of the process so far, all threads together; 0 without /proc."""
        return cpu_seconds(self.pid)


def add_options(parser: Parser) -> None:
    """Add the options that `chosen_options` reads."""
    parser.option("--model", DEFAULT_MODEL, "name of a shipped checkpoint, or path to one")
    parser.option("--device", "cpu", "device of the service", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--folder", type=Path, help="parent folder of the store (default: the temporary folder)")


def chosen_options(arguments: argparse.Namespace) -> ServiceOptions:
    """The options of the command line."""
    return ServiceOptions(arguments.model, arguments.device, folder=arguments.folder)


@contextmanager
def serving(options: ServiceOptions) -> Iterator[RunningService]:
    """A ready service for the duration of the block; its store is deleted afterwards.

    Raises:
        ServiceNotStarted: it ended or was not ready in time.
    """
    with tempfile.TemporaryDirectory(prefix="anole-benchmark-", dir=options.folder) as folder:
        log = Path(folder) / "log"
        process = _start(options, Path(folder) / "data", log)
        try:
            url = _address(process, log)
            _wait_until_ready(url)
            yield RunningService(url, process.pid)
        finally:
            _stop(process)


def _start(options: ServiceOptions, data: Path, log: Path) -> subprocess.Popen[str]:
    if not _COMMAND.exists():
        raise ServiceNotStarted(f"{_COMMAND} does not exist; install the project into this environment first")
    arguments = ["serve", "--port", "0", "--data", str(data), "--model", options.checkpoint, "--device", options.device]
    arguments += ["--workers", str(options.workers)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANOLE_")}
    environment |= {"ANOLE_DEMO": "false", "ANOLE_DRAIN_S": "0"}
    environment |= {"ANOLE_KEY_RATE_PER_S": "1000000", "ANOLE_KEY_IN_FLIGHT": "10000", **options.environment}
    with log.open("w") as errors:
        return subprocess.Popen(
            [_COMMAND, *arguments], env=environment, text=True, stdout=subprocess.PIPE, stderr=errors
        )


def _address(process: subprocess.Popen[str], log: Path) -> str:
    """Wait for the line with the address; after the timeout the process is killed, which ends the loop."""
    watchdog = threading.Timer(START_TIMEOUT_S, process.kill)
    watchdog.start()
    try:
        for line in process.stdout or ():
            found = re.search(r"serves on (http://\S+)", line)
            if found:
                return found[1]
    finally:
        watchdog.cancel()
    end = "\n".join(log.read_text().splitlines()[-_LOG_LINES_SHOWN:])
    raise ServiceNotStarted(f"the service ended or printed no address within {START_TIMEOUT_S:.0f} s:\n{end}")


def _wait_until_ready(url: str) -> None:
    """The port is open, so the first answer comes when the service has started; its decoders may need a moment more."""
    until = time.monotonic() + START_TIMEOUT_S
    while (answer := httpx.get(f"{url}/readyz", timeout=START_TIMEOUT_S)).status_code != httpx.codes.OK:
        if time.monotonic() > until:
            raise ServiceNotStarted(f"{url}/readyz answered {answer.status_code}: {answer.text}")
        threading.Event().wait(_POLL_S)


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()
