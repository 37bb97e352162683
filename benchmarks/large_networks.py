"""Peak memory and time of adapting a large net, with and without recomputation, in full and half precision.

    python benchmarks/large_networks.py [--weights 10 100] [--side 84] [--batch 25] [--rounds 3] [--device cpu]

ResNet-12 is widened to about the requested millions of weights. Every measurement is an `adapt` of random images in a
new process; the variants of one size alternate. Memory is the peak during adaptation minus the memory before it, which
includes the start: resident memory on the CPU, torch's allocations on CUDA. Seconds are processor time on the CPU.
Adapted weights are compared with those of float32 without recomputation; "of the update" is the distance to them as a
share of their distance from the start. The start is untrained, and untrained nets amplify rounding. float16 is measured
on CUDA only. Freed memory that glibc keeps counts as used; MALLOC_MMAP_THRESHOLD_=1048576 in the environment returns
large blocks at once and takes more time.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file, save_file

from benchmarks.figures import Parser, machine, machine_line, markdown, script
from benchmarks.measuring import MIB, clock, peak_bytes, reset_peak
from models import weights as weight_ops
from models.adaptation.adapt import adapt_one
from models.config import InnerLoopConfig, NetConfig, Precision
from models.images.preprocessing import ImageConfig
from models.nets import build
from models.task import Support
from models.weights import Weights
from service.runtime.device import pick_device

PUBLISHED_WIDTH, PUBLISHED_WEIGHTS = 64, 12_424_320
WAYS: Final = 5


@dataclass(frozen=True)
class Cell:
    """One way to adapt one net.

    Attributes:
        width: width of the net.
        precision: precision of the inner steps.
        recompute: gradient checkpointing: the backward pass computes the blocks again.
        side: size of an image in pixels.
        batch: images of the support and of an inner step.
        steps: inner steps.
        device: "cpu" or "cuda".
        threads: threads per operation.
    """

    width: int
    precision: Precision
    recompute: bool
    side: int
    batch: int
    steps: int
    device: str
    threads: int

    @property
    def net_config(self) -> NetConfig:
        """ResNet-12 for colour images."""
        return NetConfig("resnet12", ImageConfig(channels=3, side=self.side), self.width)

    @property
    def recipe(self) -> InnerLoopConfig:
        """Steps that are small enough for untrained weights."""
        return InnerLoopConfig(
            self.steps, 1e-4, batch_size=self.batch, precision=self.precision, recompute=self.recompute, clip_norm=10.0
        )

    def name(self) -> str:
        """Row of the table."""
        return self.precision + (", gradient checkpointing" if self.recompute else "")


@dataclass(frozen=True)
class Measurement:
    """Cost and accuracy of one adaptation.

    Attributes:
        weights: number of weights.
        before_bytes: memory before the adaptation.
        added_bytes: peak memory during the adaptation minus `before_bytes`.
        seconds: duration.
        largest: largest difference of an adapted weight from the reference; None for the reference.
        share: length of the difference divided by the length of the reference's update; None for the reference.
    """

    weights: int
    before_bytes: int
    added_bytes: int
    seconds: float
    largest: float | None = None
    share: float | None = None


@dataclass
class Row:
    """A cell and its measurements."""

    cell: Cell
    rounds: list[Measurement] = field(default_factory=list)


@script
def main() -> None:
    """Measure all cells and print a table for each size."""
    arguments = parse_arguments()
    device = pick_device(arguments.device)
    found = machine("none", device.type, arguments.threads)
    tables = [measure(cells_of(width_of(millions), arguments, device), arguments) for millions in arguments.weights]
    if arguments.json:
        records = [
            {**asdict(row.cell), "rounds": [asdict(one) for one in row.rounds]} for rows in tables for row in rows
        ]
        print(json.dumps({"machine": found, "rows": records}, indent=2))
        return
    print(machine_line(found))
    for rows in tables:
        print(f"\n{title(rows[0])}\n\n{table(rows)}")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.option("--weights", [10.0, 100.0], "millions of weights")
    parser.option("--side", 84, "size of an image in pixels")
    parser.option("--batch", 25, "images of five classes", least=WAYS)
    parser.option("--steps", 2, "inner steps")
    parser.option("--rounds", 3, "adaptations of each kind", least=1)
    parser.option("--threads", 1, "threads per operation")
    parser.option("--device", "auto", "device", choices=("auto", "cpu", "cuda"))
    parser.json()
    return parser.parse_args()


def width_of(millions: float) -> int:
    """The even width of a net with about so many million weights, which grow with its square."""
    return max(2, 2 * round(PUBLISHED_WIDTH * math.sqrt(millions * 1e6 / PUBLISHED_WEIGHTS) / 2))


def cells_of(width: int, arguments: argparse.Namespace, device: torch.device) -> list[Cell]:
    """All cells of one size; the first is the reference."""
    precisions: Sequence[Precision] = (
        ("float32", "bfloat16", "float16") if device.type == "cuda" else ("float32", "bfloat16")
    )
    shared = (arguments.side, arguments.batch, arguments.steps, device.type, arguments.threads)
    return [Cell(width, precision, recompute, *shared) for precision in precisions for recompute in (False, True)]


def measure(cells: Sequence[Cell], arguments: argparse.Namespace) -> list[Row]:
    """Measure the cells alternately, each adaptation in a new process."""
    rows = [Row(cell) for cell in cells]
    with tempfile.TemporaryDirectory(prefix="anole-size-") as folder:
        reference = Path(folder) / "reference.safetensors"
        turns = [row for _ in range(arguments.rounds) for row in rows]
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
            for row in track(turns, f"width {cells[0].width}", console=Console(stderr=True)):
                row.rounds.append(processes.submit(measure_here, row.cell, str(reference)).result())
    return rows


def measure_here(cell: Cell, reference: str) -> Measurement:
    """Measure one adaptation in this process, which must be new.

    A tiny net is adapted first, so that memory for code that torch loads on first use is not counted.

    Args:
        cell: the cell.
        reference: file of the reference's adapted weights; it is written if it does not exist.
    """
    torch.set_num_threads(cell.threads)
    device = torch.device(cell.device)
    adapt_untrained(replace(cell, width=2, steps=1), device)
    count, before_bytes, added_bytes, seconds, start, adapted = adapt_untrained(cell, device)
    largest, share = compare(start, adapted, Path(reference))
    return Measurement(count, before_bytes, added_bytes, seconds, largest, share)


def adapt_untrained(cell: Cell, device: torch.device) -> tuple[int, int, int, float, Weights, Weights]:
    """Adapt random weights to random images: number of weights, bytes before and added, seconds, start and result."""
    net = build(cell.net_config)
    start = {name: tensor.to(device) for name, tensor in net.start().items()}
    support, now = random_support(cell).to(device), clock(device)
    before_bytes, began = reset_peak(device), now()
    adapted = adapt_one(net, start, support, cell.recipe, seed=0)
    seconds, peak = now() - began, peak_bytes(device)
    count = sum(tensor.numel() for tensor in start.values())
    return count, before_bytes, peak - before_bytes, seconds, start, adapted.weights


def random_support(cell: Cell) -> Support:
    """Random images, classes in turn; the head is initialised from one of each, so that the steps have work to do."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(cell.batch, 3, cell.side, cell.side, generator=generator)
    return Support(images, torch.arange(cell.batch) % WAYS, WAYS, anchors=torch.arange(WAYS))


def compare(start: Weights, adapted: Weights, reference: Path) -> tuple[float | None, float | None]:
    """Largest and relative difference from the reference's weights; the first call writes them."""
    own = {name: adapted[name].cpu() for name in start}
    if not reference.is_file():
        save_file(own, reference)
        return None, None
    exact = load_file(reference)
    largest = max(float((own[name] - exact[name]).abs().max()) for name in exact)
    moved = length(weight_ops.subtract(exact, {name: tensor.cpu() for name, tensor in start.items()}))
    return largest, length(weight_ops.subtract(own, exact)) / moved


def length(weights: Weights) -> float:
    """Euclidean norm over all tensors."""
    return math.sqrt(math.fsum(float(tensor.square().sum()) for tensor in weights.values()))


def title(first: Row) -> str:
    """Heading of a table."""
    cell, one = first.cell, first.rounds[0]
    return (
        f"ResNet-12 of width {cell.width}, {one.weights / 1e6:.1f} million weights ({4 * one.weights // MIB} MiB); "
        f"{cell.batch} images of {cell.side} x {cell.side}, {cell.steps} inner steps; "
        f"{len(first.rounds)} rounds, medians; {one.before_bytes // MIB} MiB before"
    )


def table(rows: Sequence[Row]) -> str:
    """The results of one size as a table."""
    headings = ("method", "peak added, MiB", "ratio", "seconds", "ratio", "largest difference", "of the update")
    return markdown(headings, [line(row, rows[0]) for row in rows])


def line(row: Row, first: Row) -> tuple[str, ...]:
    """One line of the table."""
    bytes_here, bytes_first = (median_bytes(each) for each in (row, first))
    seconds_here, seconds_first = (median_seconds(each) for each in (row, first))
    compared = [one for one in row.rounds if one.largest is not None]
    largest = max((one.largest or 0.0 for one in compared), default=None)
    share = max((one.share or 0.0 for one in compared), default=None)
    return (
        row.cell.name(),
        f"{bytes_here / MIB:.0f}",
        f"{bytes_here / bytes_first:.2f}",
        f"{seconds_here:.2f}",
        f"{seconds_here / seconds_first:.2f}",
        "" if largest is None else "0" if largest == 0 else f"{largest:.1e}",
        "" if share is None else f"{100 * share:.2g} %",
    )


def median_bytes(row: Row) -> float:
    """Median of the added memory."""
    return statistics.median(one.added_bytes for one in row.rounds)


def median_seconds(row: Row) -> float:
    """Median of the durations."""
    return statistics.median(one.seconds for one in row.rounds)


if __name__ == "__main__":
    main()
