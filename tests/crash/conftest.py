"""Statements are compiled once for these tests, which open hundreds of stores."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash.statements import keep_statements


@pytest.fixture(scope="package", autouse=True)
def statements() -> Iterator[None]:
    undo = keep_statements()
    yield
    undo()
