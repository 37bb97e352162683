"""Run the commands of README.md and of the pages that it leads to, in their order, against a service.

Blocks marked ``sh`` and ``python`` are executed in one scratch folder. Lines that run make, clone or change into the
checkout are not executed, because the service that `make run` starts is already running. A block after the comment
``<!-- not executed: why -->`` is skipped.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Served, clean_environment

GUIDES = ("get-started", "versions", "corrections", "jobs", "cameras", "models", "judged", "operation", "metrics")
PAGES = ("README.md", *(f"docs/{name}.md" for name in GUIDES))
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
TEXT = "\n".join(TEXTS.values())
BLOCK = re.compile(
    r"(?:<!-- not executed: (?P<reason>.+?) -->\s*\n)?^```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^```$", re.S | re.M
)
OF_THE_CHECKOUT = re.compile(r"^\s*(make|git|cd|bash \.ci/\w+)\b")
PROBLEM = re.compile(r'"status": ?[45]\d\d')
LIMIT_S = 600


@dataclass(frozen=True)
class Block:
    """A fenced block of a page and the line where it starts."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}, line {self.line}: {self.text.strip().splitlines()[0][:60]}"


def blocks() -> list[Block]:
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found["language"], found["text"], found["reason"])
        for page, text in TEXTS.items()
        for found in BLOCK.finditer(text)
        if found["text"].strip()
    ]


EXECUTED = [block for block in blocks() if block.language in ("sh", "python") and not block.reason]


@pytest.fixture(scope="session")
def execute(served: Served) -> Callable[[Block], str]:
    """Return a function that executes a block next to the service's `data` folder and returns its output."""
    scratch = served.data.parent
    programs = Path(sys.executable).parent
    environment = clean_environment() | {
        "ANOLE_URL": served.url,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "120",
    }

    def run(block: Block) -> str:
        text = block.text.replace("http://127.0.0.1:8000", served.url).replace(".venv/bin/", f"{programs}/")
        if block.language == "sh":
            text = "\n".join(line for line in text.splitlines() if not OF_THE_CHECKOUT.match(line))
        program = ["bash", "-euo", "pipefail", "-c"] if block.language == "sh" else [sys.executable, "-c"]
        done = subprocess.run(
            [*program, text], cwd=scratch, env=environment, text=True, timeout=LIMIT_S, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if done.returncode:
            pytest.fail(f"{block}\nexited with {done.returncode}:\n{done.stdout}", pytrace=False)
        assert not PROBLEM.search(done.stdout), f"{block}\ngave a problem:\n{done.stdout}"
        return done.stdout

    return run


@pytest.mark.parametrize("block", EXECUTED, ids=str)
def test_the_commands_of_the_documentation_work(block: Block, execute: Callable[[Block], str]) -> None:
    if re.search(r"^\s*curl\b", block.text, re.M) and not shutil.which("curl"):
        pytest.skip("this machine has no curl")
    execute(block)


def test_most_blocks_of_the_documentation_are_executed() -> None:
    assert len(EXECUTED) >= 3
    assert len(EXECUTED) >= len([block for block in blocks() if block.reason])


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:^|`)make ([a-z-]+)", TEXT, re.M))))
def test_every_make_target_of_the_documentation_exists(target: str) -> None:
    done = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_commands_of_the_documentation_use_no_address_of_another_machine() -> None:
    lines = [line for block in EXECUTED for line in block.text.splitlines() if not OF_THE_CHECKOUT.match(line)]
    addresses = [address for line in lines for address in re.findall(r"https?://[^\s/\"']+", line)]
    assert [address for address in addresses if "127.0.0.1" not in address] == []
