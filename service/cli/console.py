"""How commands speak: tables and lines to standard output, progress and errors to standard error. Knows no command."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.text import Text

ABSENT = "-"

INTERRUPTED: Final = 130
"""Exit code after an interrupt from the keyboard, as shells have it."""


def output() -> Console:
    """For results."""
    return Console(highlight=False, soft_wrap=True)


def notices() -> Console:
    """For progress and errors."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def plain(text: str) -> Text:
    """Text that came from outside: shown as it is, never read as markup, control characters made visible."""
    return Text("".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text))


def percent(share: float | None) -> str:
    """A share as per cent, or a dash for what is not known."""
    return ABSENT if share is None else f"{100 * share:.1f} %"
