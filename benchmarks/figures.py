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
    """Nearest-rank percentile; `share` is e.g. 0.5 or 0.99."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def auroc(positive: Tensor, negative: Tensor) -> float:
    """Probability that a positive scores higher than a negative, ties counting half (Mann & Whitney 1947)."""
    higher = (positive[:, None] > negative).double() + 0.5 * (positive[:, None] == negative).double()
    return float(higher.mean())


def machine(options: ServiceOptions) -> dict[str, Any]:
    """Machine and settings as JSON data. Call it before the run, so that the load is that of other processes."""
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
    """The machine in one line."""
    return (
        f"{found['cores']} cores ({found['processor']}), load {found['load_before']} before the run; "
        f"torch {found['torch']} on {found['device']}, {found['torch_threads']} thread(s) an operation, one worker; "
        f"checkpoint {found['checkpoint']}"
    )


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown table with text in the first column and numbers in the others."""
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headings, rule, *rows))
