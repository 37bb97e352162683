"""Time and memory of a meta step. Algorithms alternate, and each measurement runs in a separate process.

On the CPU, time is processor time, to reduce the influence of other load; on a GPU it is elapsed time. Memory is the
peak during the meta steps minus the memory before the first.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import torch

from benchmarks.meta_work import Entry, TaskStream, Work
from models.errors import AnoleError
from models.task import Support

MEMORY_STEPS: Final = 2
"""Meta steps that the peak is taken over: a second one shows what the first left behind."""

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_WARM_UP_WIDTH: Final = 4


class MemoryUnknown(AnoleError):
    """The system does not report peak memory."""


@dataclass(frozen=True)
class Memory:
    """A process's memory around its meta steps.

    Attributes:
        before_bytes: before the first one: Python, torch, the net, the tasks.
        added_bytes: peak during them, minus `before_bytes`.
    """

    before_bytes: int
    added_bytes: int


def clock(device: torch.device) -> Callable[[], float]:
    """Processor time of this process on the CPU; elapsed time after synchronisation on a GPU."""
    if device.type == "cpu":
        return time.process_time

    def elapsed() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return elapsed


def interleaved_seconds(
    contest: Iterable[Entry], work: Work, tasks: TaskStream, device: torch.device, rounds: int
) -> Mapping[Entry, list[float]]:
    """Seconds of a meta step from the common start, `rounds` times each, alternating in both orders."""
    net, start, now = work.net(), work.start(device), clock(device)
    seconds: dict[Entry, list[float]] = {entry: [] for entry in contest}
    for number in range(-1, rounds):
        supports = tasks(max(number, 0))
        for entry in list(seconds) if number % 2 else reversed(list(seconds)):
            began = now()
            entry.step(work, net, start, supports, 1.0)
            if number >= 0:  # the first round warms up
                seconds[entry].append(now() - began)
    return seconds


def memory_apart(
    contest: Sequence[Entry], work: Work, supports: Sequence[Support], device: torch.device
) -> Iterable[tuple[Entry, Memory]]:
    """Measure the memory of each entry in a new process."""
    threads = torch.get_num_threads()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
        for entry in contest:
            yield entry, processes.submit(memory_here, entry, work, list(supports), device, threads).result()


def memory_here(
    entry: Entry, work: Work, supports: Sequence[Support], device: torch.device, threads: int = 1
) -> Memory:
    """Measure the memory of some meta steps. Call it in a new process.

    A tiny net runs first, so that code that torch loads lazily does not count.

    Raises:
        MemoryUnknown: on a CPU without Linux's /proc.
    """
    torch.set_num_threads(threads)
    supports = [support.to(device) for support in supports]
    tiny = replace(work, width=_WARM_UP_WIDTH)
    replace(entry, inner_steps=1).step(tiny, tiny.net(), tiny.start(device), supports, 1.0)
    net, state = work.net(), work.start(device)
    before = reset_peak(device)
    for _ in range(MEMORY_STEPS):
        state = entry.step(work, net, state, supports, 1.0)
    return Memory(before, peak_bytes(device) - before)


def reset_peak(device: torch.device) -> int:
    """Reset the peak and return the bytes in use."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with contextlib.suppress(OSError):  # not allowed in every container
        _RESET.write_text("5")
    return _status_bytes("VmRSS")


def peak_bytes(device: torch.device) -> int:
    """Peak bytes since `reset_peak`."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status_bytes("VmHWM")


def _status_bytes(field: str) -> int:
    """One field of /proc/self/status; getrusage would include the peak inherited from the parent process."""
    if not _STATUS.is_file():
        raise MemoryUnknown(f"the memory of a process is read from {_STATUS}, which is not there; run this on Linux")
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise MemoryUnknown(f"{_STATUS} has no {field}; run this on Linux")
