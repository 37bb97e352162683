"""The program `anole`."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path


def test_an_interrupt_while_the_commands_are_imported_is_exit_code_130_without_a_traceback() -> None:
    project = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, function = project["scripts"]["anole"].split(":")
    program = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with SIGINT ignored
class Interrupting:
    def find_spec(self, name, *_):
        if name == "service.cli.clients":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from {module} import {function}
{function}()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")
