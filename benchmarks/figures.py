"""Shared by all scripts: command-line options, statistics, Markdown tables and a description of the machine."""

from __future__ import annotations

import argparse
import functools
import math
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor

from models.errors import AnoleError
from models.meta.evaluation import Score


class Parser(argparse.ArgumentParser):
    """A command-line parser that prints the script's docstring and the defaults of its options."""

    def __init__(self, description: str | None) -> None:
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def option(self, name: str, default: Any, meaning: str, *, least: int | None = None, **settings: Any) -> None:
        """Add an option with the type of its default; a list as the default means one value or more.

        Args:
            name: with its dashes.
            default: shown in the help text.
            meaning: the help text.
            least: smallest value allowed.
            settings: passed on to `add_argument`.
        """
        shown, kind = str(default), type(default)
        if isinstance(default, list):
            shown, kind = " ".join(map(str, default)), type(default[0])
            settings["nargs"] = settings.get("nargs", "+")
        parse = kind if least is None else _at_least(least, kind)
        self.add_argument(name, type=parse, default=default, help=f"{meaning} (default: {shown})", **settings)

    def data_root(self, contents: str = "x_sdd.zip", *, required: bool = False) -> None:
        """Add --data-root, the folder that holds `contents`."""
        without = "" if required else " (default: generated images)"
        self.add_argument("--data-root", type=Path, required=required, help=f"folder with {contents}{without}")

    def json(self) -> None:
        """Add --json."""
        self.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _at_least(least: int, kind: type) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        value = kind(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"got {text}, must be at least {least}")
        return value

    parse.__name__ = kind.__name__  # argparse names it where the text is no number
    return parse


def script(main: Callable[[], None]) -> Callable[[], None]:
    """Decorate the main function of a script: an `AnoleError` ends it with a message instead of a traceback."""

    @functools.wraps(main)
    def run() -> None:
        try:
            main()
        except AnoleError as error:
            sys.exit(f"error: {error}")

    return run


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not exceeded by at least `share` of all values (nearest rank), e.g. 0.5 or 0.99."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def milliseconds(values: Sequence[float], share: float = 0.5, decimals: int = 2) -> str:
    """A percentile of seconds, in milliseconds; empty without values."""
    return f"{1e3 * percentile(values, share):.{decimals}f}" if values else ""


def auroc(positive: Tensor, negative: Tensor) -> float:
    """Probability that a positive scores higher than a negative, ties counting half (Mann & Whitney 1947)."""
    higher = (positive[:, None] > negative).double() + 0.5 * (positive[:, None] == negative).double()
    return float(higher.mean())


def differences(values: Iterable[float], reference: Iterable[float]) -> Score:
    """Mean and interval of paired differences."""
    return Score(tuple(value - other for value, other in zip(values, reference, strict=True)))


def percent(score: Score, decimals: int = 1) -> str:
    """An accuracy with half of its 95 % interval, e.g. "88.6 ± 1.2 %"."""
    return f"{100 * score.mean:.{decimals}f} ± {100 * score.half_width:.{decimals}f} %"


def points(score: Score, decimals: int = 1) -> str:
    """A difference of accuracies with half of its 95 % interval, in percentage points, e.g. "-4.7 ± 0.7"."""
    return f"{100 * score.mean:+.{decimals}f} ± {100 * score.half_width:.{decimals}f}"


def machine(checkpoint: str, device: str = "cpu", threads: int = 1) -> dict[str, Any]:
    """The machine and its load, as JSON data. Call it before the measurement, so that the load is that of others."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "torch_threads": threads,
        "device": device,
        "checkpoint": checkpoint,
    }


def machine_line(record: dict[str, Any]) -> str:
    """The result of `machine` in one line."""
    return (
        f"{record['cores']} cores ({record['processor']}), load {record['load_before']} before the run; torch "
        f"{record['torch']} on {record['device']}, {record['torch_threads']} thread(s) per operation, one worker; "
        f"checkpoint {record['checkpoint']}"
    )


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headings, rule, *rows))
