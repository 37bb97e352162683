"""Performs one short run when imported, so that processes forked from this one start at once.

Only the fork server imports it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.compiled_statements import share_compiled_statements
from tests.crash.checks import Event, check_store
from tests.crash.run import Run, perform_run
from tests.crash.steps import EVERY_KIND

share_compiled_statements(pytest.MonkeyPatch())
with tempfile.TemporaryDirectory(prefix="anole-crash-") as _folder:
    _events: list[Event] = []
    perform_run(Run(Path(_folder), {}, kinds=EVERY_KIND), _events.append)
    check_store(Path(_folder), {}, _events)
