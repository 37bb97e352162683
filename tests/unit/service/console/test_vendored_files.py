"""The libraries of the page are the published files, unchanged."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

VENDOR = Path(__file__).parents[4] / "service" / "console" / "static" / "vendor"
TABLE: list[dict[str, Any]] = json.loads((VENDOR / "vendored.json").read_text(encoding="utf-8"))


def test_the_table_names_every_library() -> None:
    libraries = {path.name for path in VENDOR.iterdir() if path.suffix in {".js", ".mjs", ".css"}}
    assert {row["file"] for row in TABLE} == libraries


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row["file"])
def test_a_library_is_the_published_file(row: dict[str, Any]) -> None:
    assert hashlib.sha256((VENDOR / row["file"]).read_bytes()).hexdigest() == row["sha256"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", row["version"])
    assert row["integrity"].startswith("sha512-")
    assert row["tarball"].startswith("https://registry.npmjs.org/")


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row["file"])
def test_the_licence_is_beside_the_library(row: dict[str, Any]) -> None:
    text = (VENDOR / f"{Path(row['file']).stem}.LICENSE.txt").read_text(encoding="utf-8")
    assert {"MIT": "The MIT License", "Apache-2.0": "Apache License"}[row["licence"]] in text


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row["file"])
def test_a_library_imports_nothing_that_a_browser_would_not_find(row: dict[str, Any]) -> None:
    content = (VENDOR / row["file"]).read_text(encoding="utf-8")
    assert not re.search(r"""(?:from|import)\s*\(?["'][^."']""", content)
