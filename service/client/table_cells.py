"""Cells of tables that are opened in spreadsheets: a text that would be computed gets an apostrophe before it."""

from __future__ import annotations

import re
from typing import Final

_FORMULA: Final = re.compile(r"'*[=+\-@\t\r]")
"""How a cell begins that a spreadsheet computes, with the apostrophes before it."""


def to_cell(text: str) -> str:
    """Return a text as a cell that no spreadsheet computes."""
    return f"'{text}" if _FORMULA.match(text) else text


def from_cell(cell: str) -> str:
    """Return the text that `to_cell` made the cell from."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
