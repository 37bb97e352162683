"""Selects the device and counts the cores. Torch is imported only where it is needed: the supervisor does without."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from service.errors import InvalidSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from models.checkpoint import Checkpoint

_DEFAULT_MODEL: Final = "efficientnet-lite0"
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


def device_for(checkpoint: Checkpoint, wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device of a checkpoint: with "auto" the CPU for the default model's net with its ONNX graph.

    Nothing of its backbone is adapted, and it was slow on a GPU; see `docs/decisions/0039`.

    Raises:
        InvalidSettings: "cuda" was requested and torch finds no GPU.
    """
    from models.config import EFFICIENTNET_LITE0

    is_default_net = checkpoint.net_config.factory == EFFICIENTNET_LITE0.factory
    stays = wanted == "auto" and is_default_net and checkpoint.onnx_graph is not None
    return pick_device("cpu" if stays else wanted)


def service_device_type(models: Sequence[str], wanted: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    """Return the type of the device that a service works on, by which it counts its processes.

    With "auto" and the default model alone, it is the CPU, see `device_for`. It is a GPU if any model is on it.

    Args:
        models: names or paths, as set.
        wanted: as set.

    Raises:
        InvalidSettings: "cuda" was requested and torch finds no GPU.
    """
    stays = wanted == "auto" and set(models) == {_DEFAULT_MODEL}
    return device_type("cpu" if stays else wanted)


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
