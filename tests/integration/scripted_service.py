"""Start a script of this folder that runs ``anole serve`` with an injected fault."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

END_LIMIT_S = 25
_ROOT = Path(__file__).parents[2]


@contextmanager
def serving(script: str, folder: Path, checkpoint: Path) -> Iterator[tuple[httpx.Client, subprocess.Popen[str]]]:
    """Start `script` with the folder and the checkpoint. Return an HTTP client for it and its process."""
    command = [sys.executable, str(Path(__file__).with_name(script)), str(folder), str(checkpoint)]
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    with subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            stdout: Any = process.stdout
            address = next(found[1] for line in stdout if (found := re.search(r"serves on (http://\S+)", line)))
            with httpx.Client(base_url=address, timeout=30) as http:
                yield http, process
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=END_LIMIT_S)
