"""docs/settings.md lists every setting with its default, and the fixed limits with their values."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from service.settings import REMOVED, Settings

PAGE = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
SETTING = re.compile(r"^\|([^|]*)\|([^|]*)\|([^|]*)\|[^|]*\|([^|]*)\|[^|]*\|$", re.MULTILINE)
LIMIT = re.compile(r"^\| [^|]+ \| ([\d,.]+) \| `([\w.]+)` \|$", re.MULTILINE)


def shown(value: Any) -> str:
    """Format a default as in the table."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:,g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def constant(path: str) -> Any:
    """Return a constant of a module, or the default of a dataclass field."""
    owner, name = path.rsplit(".", 1)
    if not owner.rsplit(".", 1)[1][0].isupper():
        return getattr(importlib.import_module(owner), name)
    module, kind = owner.rsplit(".", 1)
    return inspect.signature(getattr(importlib.import_module(module), kind)).parameters[name].default


def test_the_table_has_every_setting_with_its_variable_default_and_description() -> None:
    cells = [[cell.strip() for cell in row] for row in SETTING.findall(PAGE)]
    assert {row[0]: tuple(row[1:]) for row in cells if row[0].startswith("`")} == {
        f"`{name}`": (
            f"`ANOLE_{name.upper()}`",
            str(field.default) if name == "port" else shown(field.default),
            field.description,
        )
        for name, field in Settings.model_fields.items()
    }
    assert not any(field.is_required() for field in Settings.model_fields.values())


@pytest.mark.parametrize(("value", "path"), LIMIT.findall(PAGE))
def test_a_fixed_limit_has_the_value_that_the_page_gives(value: str, path: str) -> None:
    assert float(value.replace(",", "")) == float(constant(path))


def test_the_page_lists_fixed_limits_and_no_removed_setting_exists() -> None:
    assert len(LIMIT.findall(PAGE)) > 10
    assert not REMOVED.keys() & Settings.model_fields.keys()
