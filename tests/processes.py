"""Child processes of tests, forked from a server that has imported what they need.

Python keeps one fork server, and one list of modules to preload, for each process. If every file set a list of its own,
the last one collected would win, and children of the others would import torch, the store and SQLAlchemy anew.
"""

from __future__ import annotations

import multiprocessing

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["tests.crash.preload", "tests.integration.store_child", "tests.unit.models.meta.training_child"]
)
