"""Performs one short run when imported, so that processes forked from this one start at once.

Only the fork server imports it.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import pytest
import structlog

from service.store.open_store import StoreLocation
from tests.compiled_statements import share_compiled_statements
from tests.crash.checks import Event, check_store
from tests.crash.run import Run, perform_run
from tests.crash.steps import EVERY_KIND

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
share_compiled_statements(pytest.MonkeyPatch())
with tempfile.TemporaryDirectory(prefix="anole-crash-") as _folder:
    _location = StoreLocation(Path(_folder))
    _events: list[Event] = []
    perform_run(Run(_location, {}, kinds=EVERY_KIND), _events.append)
    check_store(_location, {}, _events)
