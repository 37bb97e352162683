"""The commands that need torch, whose import takes seconds. They are imported when they are called."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from service.cli.console import EXIT_CODES
from service.cli.installation import require_full_installation

_MODULES: Final = {
    "train": ("service.cli.train", "Meta-train a checkpoint."),
    "evaluate": (
        "service.cli.train",
        "Measure the accuracy of a checkpoint on few-shot episodes, with a 95 % confidence interval.",
    ),
    "search": ("service.cli.search", "Search for a net that learns better from few images, and train it."),
    "import-backbone": (
        "service.cli.import_backbone",
        "Make a checkpoint of a pretrained backbone of your own, frozen.",
    ),
}
"""Where each command is, and its summary for lists of commands."""


class TorchCommand(TyperCommand):
    """Stands for a command in lists of commands and in completions, and loads it when it is called."""

    def __init__(self, name: str) -> None:
        self._module, summary = _MODULES[name]
        super().__init__(name, help=summary)

    def load(self) -> Any:
        """Import the command itself and return it."""
        name = str(self.name)
        require_full_installation(f"anole {name}")
        function = getattr(import_module(self._module), name.replace("-", "_"))
        alone = typer.Typer(add_completion=False)
        alone.command(name, epilog=EXIT_CODES)(function)
        return typer.main.get_command(alone)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Return the context of the command itself."""
        return self.load().make_context(info_name, args, parent=parent, **extra)


class AnoleGroup(TyperGroup):
    """The commands of `anole`, with those that need torch."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands.update({name: TorchCommand(name) for name in _MODULES})
