"""`anole train` in a process that kills itself before or after writing a given checkpoint."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from models.checkpoint import Checkpoint, save_checkpoint
from models.meta import curve, training
from service.cli import main as cli


def train_and_die(arguments: Sequence[str], when: str, number: int) -> None:
    """Run the command line and kill the process before or after it writes checkpoint `number`.

    Args:
        arguments: arguments of `anole`.
        when: "before" or "after".
        number: which checkpoint; 1 is the first that this process writes.
    """
    written = 0

    def save_and_die(checkpoint: Checkpoint, path: Path) -> None:
        nonlocal written
        written += 1
        if (when, number) == ("before", written):
            os.kill(os.getpid(), signal.SIGKILL)
        save_checkpoint(checkpoint, path)
        if (when, number) == ("after", written):
            os.kill(os.getpid(), signal.SIGKILL)

    patch = pytest.MonkeyPatch()
    patch.setattr(training, "save_checkpoint", save_and_die)
    patch.setattr(curve, "can_plot", lambda: False)
    patch.setattr(sys, "argv", ["anole", *arguments])
    cli.main()
