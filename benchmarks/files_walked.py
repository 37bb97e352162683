"""Files of `models/` and `service/` whose code runs for one request: adapt, the first predict and a repeated predict.

    python benchmarks/files_walked.py [--list]

Serves with an empty store in this process, once with decoder processes and once without, and notes with
`sys.setprofile` in all threads which files run. Prints the number of files per request, over both runs together. Not
counted: code in decoder processes, files that are only imported, and what runs from time to time, such as reading the
API keys again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

import httpx
import numpy as np
from PIL import Image

from benchmarks.figures import Parser

ROOT: Final = Path(__file__).resolve().parents[1]
REQUESTS: Final = ("adapt", "first predict", "repeated predict")

_SEED: Final = 0
_START_LIMIT_S: Final = 300.0
_RUN_LIMIT_S: Final = 900.0
_SETTLE_S: Final = 0.5
"""Pause after a request, in which its threads finish."""


class FileRecorder:
    """Notes the files below `ROOT` whose functions are called while it records."""

    def __init__(self) -> None:
        self._prefixes = tuple(f"{ROOT / package}{os.sep}" for package in ("models", "service"))
        self._files: set[str] = set()

    def install(self) -> None:
        """Observe this thread and all threads that start from now on."""
        threading.setprofile(self._on_event)
        sys.setprofile(self._on_event)

    def files_of(self, call: Callable[[], object], prepare: Callable[[], object]) -> list[str]:
        """Return the files that ran while `call` did, after `prepare`."""
        self._pause()
        prepare()
        self._files.clear()
        call()
        self._pause()
        return sorted(self._files)

    def _on_event(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_name != "<module>" and code.co_filename.startswith(self._prefixes):
            self._files.add(str(Path(code.co_filename).relative_to(ROOT)))

    def _pause(self) -> None:
        threading.Event().wait(_SETTLE_S)


def main() -> None:
    """Measure both kinds of decoder and print the counts."""
    parser = Parser(__doc__)
    parser.add_argument("--list", action="store_true", help="also print the files")
    parser.add_argument("--decoder-processes", type=int, default=None, help=argparse.SUPPRESS)  # one run, for main
    arguments = parser.parse_args()
    if arguments.decoder_processes is not None:
        record(arguments.decoder_processes)
        return
    runs = [recorded_in_a_process(count) for count in (2, 0)]
    for request in REQUESTS:
        files = sorted({file for run in runs for file in run[request]})
        print(f"{request}: {len(files)} files")
        if arguments.list:
            print(*(f"  {file}" for file in files), sep="\n")


def recorded_in_a_process(decoder_processes: int) -> dict[str, list[str]]:
    """Return request -> files, measured in a new process."""
    command = [sys.executable, str(Path(__file__).resolve()), "--decoder-processes", str(decoder_processes)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANOLE_")}
    environment["PYTHONPATH"] = str(ROOT)
    finished = subprocess.run(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=_RUN_LIMIT_S, check=True
    )
    found: dict[str, list[str]] = json.loads(finished.stdout.splitlines()[-1])
    return found


def record(decoder_processes: int) -> None:
    """Serve in this process, send the requests and print request -> files as JSON."""
    from service.cli.serve import run
    from service.settings import load_settings

    recorder = FileRecorder()
    recorder.install()
    os.environ |= {"ANOLE_DECODER_PROCESSES": str(decoder_processes), "ANOLE_DEMO": "false", "ANOLE_DRAIN_S": "0"}
    os.environ |= {"ANOLE_LOG_LEVEL": "warning", "ANOLE_ADAPT_S": "600", "ANOLE_PREDICT_S": "600"}  # profiling is slow
    printed, found = io.StringIO(), {}

    def send() -> None:
        try:
            found.update(recorded_requests(recorder, address(printed)))
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(port=0, data=Path(folder), device="cpu")
        thread = threading.Thread(target=send)
        with contextlib.redirect_stdout(printed):
            thread.start()
            run(settings, as_json=True)
            thread.join()
    print(json.dumps(found))


def address(printed: io.StringIO) -> str:
    """Wait until the service has printed its address, and return it."""
    deadline = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < deadline:
        if "\n" in printed.getvalue():
            return str(json.loads(printed.getvalue())["url"])
        threading.Event().wait(0.05)
    raise TimeoutError(f"the service did not start within {_START_LIMIT_S:.0f} s")


def recorded_requests(recorder: FileRecorder, url: str) -> dict[str, list[str]]:
    """Send the requests to a warm service and return request -> files."""
    with httpx.Client(base_url=url, timeout=_RUN_LIMIT_S) as client:
        adapt(client, "warm-up")
        predict(client, "warm-up")
        calls: dict[str, Callable[[], object]] = {
            "adapt": lambda: adapt(client, "line"),
            "first predict": lambda: predict(client, "line"),
            "repeated predict": lambda: predict(client, "line"),
        }

        def read_keys() -> httpx.Response:
            return client.get("/models")

        return {request: recorder.files_of(calls[request], read_keys) for request in REQUESTS}


def adapt(client: httpx.Client, name: str) -> None:
    """Send four samples of each of two classes."""
    files: list[Any] = [("samples", (f"{index}.png", png(30 + 120 * (index % 2), index))) for index in range(8)]
    data = {"client": name, "labels": ["dark", "bright"] * 4, "publish": "always"}
    client.post("/adapt", data=data, files=files).raise_for_status()


def predict(client: httpx.Client, name: str) -> None:
    """Send one image."""
    client.post("/predict", data={"client": name}, files=[("images", ("x.png", png(150, 8)))]).raise_for_status()


def png(brightness: int, index: int) -> bytes:
    """Return a noisy image as a PNG."""
    pixels = np.random.default_rng((_SEED, index)).integers(brightness, brightness + 60, (64, 64), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()


if __name__ == "__main__":
    main()
