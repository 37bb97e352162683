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


def cases(of: str, usual: int) -> int:
    """How many cases `of` this are tried: FUZZ_FORMS, FUZZ_IMAGES or FUZZ_ROUTES where it is set."""
    return int(os.environ.get(f"FUZZ_{of.upper()}", usual))


def seed() -> int:
    """What the cases are drawn from."""
    return int(os.environ.get("FUZZ_SEED", "0"))


def resident_mib(pid: int | str = "self") -> float:
    """Memory of a process, in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MEBIBYTE


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Says a line while the tests run: the figures of a campaign."""

    def said(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{line}\n")

    return said


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    """The whole service in this process, with a small net and nothing seeded, silent but for errors."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    settings = load_settings(
        data=tmp_path / "data", model=str(tiny_checkpoint_in(tmp_path)), device="cpu", demo=False,
        key_rate_per_s=1e6, max_files=16,
    )  # fmt: skip
    services = bootstrap.build(settings)
    with started(create_app(settings, lambda _: services), services) as web:
        yield web
    structlog.reset_defaults()
