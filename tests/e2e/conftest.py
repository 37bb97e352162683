"""Running services: one started with `make run`, and others with `anole serve`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from service.client import AdaptOptions, Client, LabelledFile
from service.domain.key import Grant, Scope
from service.store.open_store import StoreLocation, open_keys
from service.usecases.keys import create
from tests.generated import striped, tiny_checkpoint_in

ROOT = Path(__file__).parents[2]
START_LIMIT_S = 120
STOP_LIMIT_S = 60
ANOLE = Path(sys.executable).parent / "anole"
FINE = striped(8, 4)
COARSE = striped(8, 13)


def labelled(**classes: list[bytes]) -> list[LabelledFile]:
    """Return the pictures of each class as named samples."""
    return [
        LabelledFile(label, f"{label}-{index}.png", content)
        for label, contents in classes.items()
        for index, content in enumerate(contents)
    ]


SAMPLES = labelled(fine=striped(6, 4), coarse=striped(6, 13))


@dataclass(frozen=True)
class Served:
    """A running service: its URL, the folder of its store and its output so far."""

    url: str
    data: Path
    printed: list[str]


def clean_environment() -> dict[str, str]:
    """Return the environment without variables of an outer make or an outer service, for one worker that stops soon."""
    inherited = ("MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS", "PORT", "DATA")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in inherited and (not name.startswith("ANOLE_") or name == "ANOLE_DATA_ROOT")
    }
    return {**kept, "ANOLE_WORKERS": "1", "ANOLE_DRAIN_S": "0"}  # one worker on every machine


def create_key(data: Path, *scopes: Scope) -> str:
    """Create a key for all clients in a store and return it."""
    with open_keys(StoreLocation(data)) as keys:
        return create(keys, Grant("tablet", scopes, ("*",)))[0]


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


class Process:
    """A running service."""

    def __init__(self, process: subprocess.Popen[str], url: str, printed: list[str]) -> None:
        self.process = process
        self.url = url
        self.printed = printed

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(STOP_LIMIT_S)


@contextmanager
def serving(data: Path, checkpoint: Path, *options: str, **environment: str) -> Iterator[Process]:
    command = [str(ANOLE), "serve", "--port", "0", "--data", str(data), "--model", str(checkpoint), *options]
    printed: list[str] = []
    announced = threading.Event()
    with subprocess.Popen(
        command, cwd=ROOT, env={**clean_environment(), **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        reader = threading.Thread(target=collect, args=(process.stdout, printed, announced), daemon=True)
        reader.start()
        try:
            announced.wait(START_LIMIT_S)
            found = re.search(r"serves on (http://\S+)", "".join(printed))
            if not found:
                pytest.fail(f"the service did not start:\n{''.join(printed)}", pytrace=False)
            yield Process(process, found[1], printed)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(STOP_LIMIT_S)
            reader.join(STOP_LIMIT_S)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint_in(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def url(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a service for the tests of the web page."""
    readings = tiny_checkpoint_in(tmp_path_factory.mktemp("readings"), "readings", numbers=2)
    models = ("--model", "surface-notes", "--model", str(readings))  # for clients that choose them
    with serving(tmp_path_factory.mktemp("console"), checkpoint, *models, ANOLE_DEMO="false") as running:
        yield running.url


@pytest.fixture(scope="session")
def line(url: str) -> str:
    """Return a client with two versions; the second one, with one class more, is live."""
    with Client(url) as anole:
        anole.adapt("line", labelled(fine=FINE, coarse=COARSE), AdaptOptions(publish="always"))
        anole.adapt("line", labelled(medium=striped(8, 7)), AdaptOptions(publish="always"))
    return "line"


@pytest.fixture(scope="session")
def other_line(url: str) -> str:
    """Return a second client, with one version, which is live."""
    with Client(url) as anole:
        anole.adapt("other-line", labelled(fine=FINE, coarse=COARSE), AdaptOptions(publish="always"))
    return "other-line"
