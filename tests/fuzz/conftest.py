"""Shared settings of the fuzz tests. `make fuzz` sets the number of cases and the seed."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from service import bootstrap
from service.http.app import create_app
from service.settings import load_settings
from tests.generated import tiny_checkpoint_in
from tests.in_process import Web, started

MEBIBYTE = 1024 * 1024


def cases(kind: str, default: int) -> int:
    """Return the number of cases of a kind: FUZZ_FORMS, FUZZ_IMAGES or FUZZ_ROUTES if it is set, else `default`."""
    return int(os.environ.get(f"FUZZ_{kind.upper()}", default))


def seed() -> int:
    """Return the seed of the cases."""
    return int(os.environ.get("FUZZ_SEED", "0"))


def resident_mib(pid: int | str = "self") -> float:
    """Return the resident memory of a process in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MEBIBYTE


@pytest.fixture
def print_line(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Return a function that prints a line while the tests run."""

    def write(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{line}\n")

    return write


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    """Start the whole service in this process with an untrained net and no demo client. It logs errors only."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    settings = load_settings(
        data=tmp_path / "data", model=str(tiny_checkpoint_in(tmp_path)), device="cpu", demo=False,
        key_rate_per_s=1e6, max_files=16,
    )  # fmt: skip
    services = bootstrap.build(settings)
    with started(create_app(settings, lambda _: services), services) as web:
        yield web
    structlog.reset_defaults()
