"""The tests named in SECURITY.md exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`([\w/]*\.py)?::(test_\w+)`")


def named_tests() -> list[tuple[str, str]]:
    found, before = [], ""
    for path, name in NAMED.findall(PAGE):
        before = path or before
        found.append((before, name))
    return found


def test_the_page_names_tests() -> None:
    assert len(named_tests()) > 50
    assert PAGE.count("::test_") == len(named_tests())


@pytest.mark.parametrize(("path", "name"), named_tests())
def test_every_test_named_on_the_page_exists(path: str, name: str) -> None:
    tree = ast.parse((ROOT / "tests" / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
