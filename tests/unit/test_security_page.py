"""The tests named in SECURITY.md and docs/faults.md exist."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("SECURITY.md", "docs/faults.md")
NAMED = re.compile(r"`([\w/]*\.py)?::(test_\w+)`")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def named_tests(page: str) -> list[tuple[str, str]]:
    found, before = [], ""
    for path, name in NAMED.findall(text_of(page)):
        before = path or before
        found.append((before, name))
    return found


@functools.cache
def functions_of(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / "tests" / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize(("page", "at_least"), [("SECURITY.md", 50), ("docs/faults.md", 10)])
def test_the_page_names_tests(page: str, at_least: int) -> None:
    assert len(named_tests(page)) > at_least
    assert text_of(page).count("::test_") == len(named_tests(page))


@pytest.mark.parametrize(("path", "name"), sorted({named for page in PAGES for named in named_tests(page)}))
def test_every_test_named_on_the_page_exists(path: str, name: str) -> None:
    assert name in functions_of(path)
