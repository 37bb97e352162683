"""Selects the device and counts the cores. Torch is imported only where it is needed: the supervisor does without."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from service.errors import InvalidSettings

if TYPE_CHECKING:
    import torch

_CUDA_DRIVER: Final = "libcuda.so.1"
_ROCM_DRIVER: Final = Path("/dev/kfd")


def pick_device(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device to use. "auto" takes the GPU if there is one.

    Raises:
        InvalidSettings: "cuda" was requested and torch finds no GPU.
    """
    import torch

    return torch.device(device_type(wanted))


def device_type(wanted: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    """Return the type of the device to use, without torch where nothing but the CPU can be meant.

    Raises:
        InvalidSettings: "cuda" was requested and torch finds no GPU.
    """
    if wanted == "cpu" or (wanted == "auto" and not _has_gpu_driver()):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise InvalidSettings("device is cuda, but torch finds no GPU on this machine; use auto or cpu")
    return "cpu"


def _has_gpu_driver() -> bool:
    """Whether this machine has the driver without which torch finds no GPU: that of CUDA, or of ROCm."""
    try:
        ctypes.CDLL(_CUDA_DRIVER)
    except OSError:
        return _ROCM_DRIVER.exists()
    return True


def usable_cores() -> int:
    """Return the number of CPU cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return os.cpu_count() or 1 if affinity is None else len(affinity(0))
