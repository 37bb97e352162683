"""Compiles statements once for these tests, which open hundreds of stores."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash.compiled_statements import share_compiled_statements


@pytest.fixture(scope="package", autouse=True)
def statements() -> Iterator[None]:
    undo = share_compiled_statements()
    yield
    undo()
