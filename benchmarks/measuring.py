"""Measures time and memory of this process and of others."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import torch

from models.errors import AnoleError

CPU: Final = torch.device("cpu")
MIB: Final = 2**20
STATUS: Final = Path("/proc/self/status")

Name = TypeVar("Name", bound=Hashable)


class MemoryUnknown(AnoleError):
    """The system does not report the peak memory of a process."""


@dataclass
class Times:
    """Seconds of repeated runs of one side: elapsed, and processor time of all threads unless stated otherwise."""

    elapsed_s: list[float] = field(default_factory=list)
    processor_s: list[float] = field(default_factory=list)

    def measure(
        self,
        run: Callable[[], object],
        device: torch.device = CPU,
        processor_clock: Callable[[], float] = time.process_time,
    ) -> None:
        """Run once; on a GPU, wait for the work that the run queued."""
        began, processor_began = time.perf_counter(), processor_clock()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.elapsed_s.append(time.perf_counter() - began)
        self.processor_s.append(processor_clock() - processor_began)

    @property
    def elapsed_median_s(self) -> float:
        """Median of the elapsed times."""
        return statistics.median(self.elapsed_s)

    @property
    def processor_median_s(self) -> float:
        """Median of the processor times."""
        return statistics.median(self.processor_s)


def alternate(
    sides: Mapping[Name, Callable[[int], object]],
    rounds: int,
    *,
    warm_up: int = 1,
    device: torch.device = CPU,
    processor_clock: Callable[[], float] = time.process_time,
) -> dict[Name, Times]:
    """Run every side once per round, in reverse order every second round, so that other load affects all alike.

    Args:
        sides: called with the number of the round, where the first round of the warm-up is 0.
        rounds: rounds that count.
        warm_up: rounds before them.
        device: a GPU to wait for.
        processor_clock: measures processor time.
    """
    times = {name: Times() for name in sides}
    for number in range(-warm_up, rounds):
        for name in list(sides) if number % 2 else reversed(list(sides)):
            target = times[name] if number >= 0 else Times()
            target.measure(partial(sides[name], number + warm_up), device, processor_clock)
    return times


def ignoring_number(run: Callable[[], object]) -> Callable[[int], object]:
    """A side for `alternate` that does the same in every round."""
    return lambda _: run()


def clock(device: torch.device) -> Callable[[], float]:
    """Processor time of this process for the CPU; elapsed time after all queued work for a GPU. In seconds."""
    if device.type == "cpu":
        return time.process_time

    def elapsed() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return elapsed


def reset_peak(device: torch.device) -> int:
    """Start a new measurement of the peak memory; return the bytes in use."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with contextlib.suppress(OSError):  # some containers do not allow it; nothing large was allocated before
        Path("/proc/self/clear_refs").write_text("5")
    return status_bytes("VmRSS")


def peak_bytes(device: torch.device) -> int:
    """Peak memory in bytes since `reset_peak`."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else status_bytes("VmHWM")


def status_bytes(name: str) -> int:
    """A field of /proc/self/status in bytes. The peak of getrusage includes the parent process.

    Raises:
        MemoryUnknown: there is no such field; this needs Linux.
    """
    for line in STATUS.read_text().splitlines() if STATUS.is_file() else ():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise MemoryUnknown(f"{STATUS} has no field {name}; run this on Linux")


def resident_bytes(pids: Iterable[int]) -> int:
    """Resident memory of these processes together, from /proc."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE")


def process_tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    tasks = Path(f"/proc/{pid}/task")
    children = [int(child) for task in tasks.glob("*/children") for child in task.read_text().split()]
    return [pid, *(member for child in children for member in process_tree(child))]


def cpu_seconds(pid: int, *, ended_children: bool = False) -> float:
    """Processor time of a process, from /proc; 0 if it has ended or the system has no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return sum(map(int, fields[11 : 15 if ended_children else 13])) / os.sysconf("SC_CLK_TCK")
