"""SECURITY.md against the code: the tests that it names exist, and the limits have the defaults that it gives."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from service.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`([\w/]*\.py)?::(test_\w+)`")
LIMIT = re.compile(r"^\| `(\w+)` \| ([\d,.]+) \| (.+) \|$", re.MULTILINE)
BOUNDING = re.compile(r"^(max_|min_|key_(rate|in|adapt)|address_|.*_(bytes|waiting|running)$)")


def named_tests() -> list[tuple[str, str]]:
    found, before = [], ""
    for path, name in NAMED.findall(PAGE):
        before = path or before
        found.append((before, name))
    return found


def test_the_page_names_tests_and_limits() -> None:
    assert len(named_tests()) > 50
    assert PAGE.count("::test_") == len(named_tests())


@pytest.mark.parametrize(("path", "name"), named_tests())
def test_a_test_that_the_page_names_exists(path: str, name: str) -> None:
    tree = ast.parse((ROOT / "tests" / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_limit_has_the_default_and_the_words_that_the_page_gives() -> None:
    given = {name: (float(default.replace(",", "")), words) for name, default, words in LIMIT.findall(PAGE)}
    assert given == {
        name: (float(Settings.model_fields[name].default), Settings.model_fields[name].description) for name in given
    }
    assert {name for name in Settings.model_fields if BOUNDING.match(name)} - {"cache_bytes"} <= set(given)
