"""The examples of the page about the bridge are valid configurations."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from service.bridge.config import SinkConfig, SourceConfig, load_config
from service.bridge.sinks.modbus import REGISTERS
from tests.unit.service.bridge.conftest import verdict

PAGE = (Path(__file__).parents[4] / "docs" / "bridge.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```toml\n(.+?)```", PAGE, re.DOTALL)
FIRST = EXAMPLES[0]
FILES = re.compile(r'^(?:\w+_file|producer|certificate|private_key) = "([^"]+)"', re.MULTILINE)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.split("\n")[1])
def test_an_example_of_the_page_is_valid(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole = example if example == FIRST else f"{FIRST}\n{example}"
    for name in FILES.findall(whole):
        local = name.lstrip("/").replace("/", "-")
        Path(local).touch()
        whole = whole.replace(f'"{name}"', f'"{local}"')
    Path("bridge.toml").write_text(whole, encoding="utf-8")
    load_config(Path("bridge.toml"))


def test_the_page_has_an_example_of_every_type() -> None:
    shown = {
        (kind, entry["type"])
        for example in EXAMPLES
        for kind, entries in tomllib.loads(example).items()
        if kind in {"source", "sink"}
        for entry in entries
    }
    types = {
        (kind, each.model_fields["type"].annotation.__args__[0])
        for kind, union in (("source", SourceConfig), ("sink", SinkConfig))
        for each in union.__args__[0].__args__
    }
    assert shown == types


def test_the_page_shows_the_fields_of_a_verdict_and_all_registers() -> None:
    (shown,) = re.findall(r"```json\n(.+?)```", PAGE, re.DOTALL)
    assert list(json.loads(shown)) == list(verdict().fields())
    assert len(re.findall(r"^\| \+\d \|", PAGE, re.MULTILINE)) == REGISTERS
