"""Shared by all tables: percentiles, AUROC, a description of the machine, and Markdown rows."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable, Sequence
from importlib import metadata
from typing import Any

from torch import Tensor

from benchmarks.running_service import ServiceOptions


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not pass (nearest rank), e.g. 0.5 or 0.99."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def auroc(positive: Tensor, negative: Tensor) -> float:
    """Probability that a positive scores higher than a negative, ties counting half (Mann & Whitney 1947)."""
    higher = (positive[:, None] > negative).double() + 0.5 * (positive[:, None] == negative).double()
    return float(higher.mean())


def machine(options: ServiceOptions) -> dict[str, Any]:
    """Where and how it was measured, as JSON data; ask before the run, so that the load is the others'."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "torch_threads": options.torch_threads,
        "device": options.device,
        "checkpoint": options.checkpoint,
    }


def machine_line(found: dict[str, Any]) -> str:
    """The same in one line."""
    return (
        f"{found['cores']} cores ({found['processor']}), load {found['load_before']} before the run; "
        f"torch {found['torch']} on {found['device']}, {found['torch_threads']} thread(s) an operation, one worker; "
        f"checkpoint {found['checkpoint']}"
    )


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first column is text, the others are numbers."""
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headings, rule, *rows))
