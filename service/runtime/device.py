"""Selects the device and counts the cores."""

from __future__ import annotations

import os
from typing import Literal

import torch

from service.errors import InvalidSettings


def pick_device(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device to use. "auto" takes the GPU if there is one.

    Raises:
        InvalidSettings: "cuda" was requested and torch finds no GPU.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InvalidSettings("device is cuda, but torch finds no GPU on this machine; use auto or cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def usable_cores() -> int:
    """Return the number of CPU cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return os.cpu_count() or 1 if affinity is None else len(affinity(0))
