"""Peak memory and time of adapting a large net, with and without recomputation, in full and half precision.

    python benchmarks/size.py [--weights 10 100] [--side 84] [--batch 25] [--steps 2] [--rounds 3] [--device cpu]

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

from benchmarks.figures import machine, machine_line, markdown
from benchmarks.meta_costs import clock, peak_bytes, reset_peak
from benchmarks.running_service import ServiceOptions
from models import weights as algebra
from models.adaptation.adapt import adapt_one
from models.config import InnerLoopConfig, NetConfig, Precision
from models.images.preprocessing import ImageConfig
from models.nets import build
from models.task import Support
from models.weights import Weights
from service.runtime.device import pick_device

PUBLISHED_WIDTH, PUBLISHED_WEIGHTS = 64, 12_424_320
WAYS: Final = 5
MIB: Final = 1024 * 1024


@dataclass(frozen=True)
class Cell:
    """One way to adapt one net.

    Attributes:
        width: of the net.
        precision: of the inner steps.
        recompute: blocks are run again.
        side: of an image, pixels.
        batch: images of the support, and of an inner step.
        steps: inner steps.
        device: "cpu" or "cuda".
        threads: inside one operation.
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
        """SGD steps, small enough for untrained weights."""
        return InnerLoopConfig(
            self.steps, 1e-4, batch_size=self.batch, precision=self.precision, recompute=self.recompute, clip_norm=10.0
        )

    def name(self) -> str:
        """Name in the table."""
        return f"{self.precision}, blocks {'run again' if self.recompute else 'kept'}"


@dataclass(frozen=True)
class Taken:
    """Results of one adaptation.

    Attributes:
        weights: numbers in the start.
        before_bytes: memory before it.
        added_bytes: peak during it, minus `before_bytes`.
        seconds: duration.
        largest: largest difference of any adapted weight from the reference's; None for the reference.
        share: length of that difference as a share of the reference's update; None for the reference.
    """

    weights: int
    before_bytes: int
    added_bytes: int
    seconds: float
    largest: float | None = None
    share: float | None = None


@dataclass
class Row:
    """A cell and its rounds."""

    cell: Cell
    rounds: list[Taken] = field(default_factory=list)


def main() -> None:
    """Measure all cells and print the table of each size."""
    arguments = parsed()
    device = pick_device(arguments.device)
    found = machine(ServiceOptions("none", device.type, arguments.threads))
    tables = [measured(cells_of(width_of(millions), arguments, device), arguments) for millions in arguments.weights]
    if arguments.json:
        records = [
            {**asdict(row.cell), "rounds": [asdict(taken) for taken in row.rounds]} for rows in tables for row in rows
        ]
        print(json.dumps({"machine": found, "rows": records}, indent=2))
        return
    print(machine_line(found))
    for rows in tables:
        print(f"\n{title(rows[0])}\n\n{table(rows)}")


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=float, nargs="+", default=[10, 100], help="millions of them; 10 100")
    parser.add_argument("--side", type=int, default=84, help="of an image, pixels (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=25, help="images of five classes (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2, help="inner steps (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="adaptations of each kind (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="inside one operation (default: %(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.batch < WAYS:
        parser.error(f"--rounds must be at least 1 and --batch at least {WAYS}")
    return arguments


def width_of(millions: float) -> int:
    """The even width whose net has about so many million weights; they grow with its square."""
    return max(2, 2 * round(PUBLISHED_WIDTH * math.sqrt(millions * 1e6 / PUBLISHED_WEIGHTS) / 2))


def cells_of(width: int, arguments: argparse.Namespace, device: torch.device) -> list[Cell]:
    """All ways of one size; the first is the reference."""
    precisions: Sequence[Precision] = (
        ("float32", "bfloat16", "float16") if device.type == "cuda" else ("float32", "bfloat16")
    )
    shared = (arguments.side, arguments.batch, arguments.steps, device.type, arguments.threads)
    return [Cell(width, precision, recompute, *shared) for precision in precisions for recompute in (False, True)]


def measured(cells: Sequence[Cell], arguments: argparse.Namespace) -> list[Row]:
    """Measure the cells by turns, each adaptation in a fresh process."""
    rows = [Row(cell) for cell in cells]
    with tempfile.TemporaryDirectory(prefix="anole-size-") as folder:
        reference = Path(folder) / "reference.safetensors"
        turns = [row for _ in range(arguments.rounds) for row in rows]
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
            for row in track(turns, f"width {cells[0].width}", console=Console(stderr=True)):
                row.rounds.append(processes.submit(taken_here, row.cell, str(reference)).result())
    return rows


def taken_here(cell: Cell, reference: str) -> Taken:
    """Measure one adaptation. Call it in a new process.

    A tiny net runs first, so that code that torch loads lazily does not count.

    Args:
        cell: the way.
        reference: file of the reference's adapted weights; written if it is not there, else compared with.
    """
    torch.set_num_threads(cell.threads)
    device = torch.device(cell.device)
    adapt_untrained(replace(cell, width=2, steps=1), device)
    count, before_bytes, added_bytes, seconds, start, adapted = adapt_untrained(cell, device)
    largest, share = against(start, adapted, Path(reference))
    return Taken(count, before_bytes, added_bytes, seconds, largest, share)


def adapt_untrained(cell: Cell, device: torch.device) -> tuple[int, int, int, float, Weights, Weights]:
    """Adapt random weights to random images: their count, bytes before and added, seconds, start and result."""
    net = build(cell.net_config)
    start = {name: tensor.to(device) for name, tensor in net.start().items()}
    support, now = random_support(cell).to(device), clock(device)
    before_bytes, began = reset_peak(device), now()
    adapted = adapt_one(net, start, support, cell.recipe, seed=0)
    seconds, peak = now() - began, peak_bytes(device)
    count = sum(tensor.numel() for tensor in start.values())
    return count, before_bytes, peak - before_bytes, seconds, start, adapted.weights


def random_support(cell: Cell) -> Support:
    """Random images; the head starts from one image per class, so that much is left to learn."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(cell.batch, 3, cell.side, cell.side, generator=generator)
    return Support(images, torch.arange(cell.batch) % WAYS, WAYS, anchors=torch.arange(WAYS))


def against(start: Weights, adapted: Weights, reference: Path) -> tuple[float | None, float | None]:
    """Largest and relative difference from the reference's weights; the first call writes them."""
    own = {name: adapted[name].cpu() for name in start}
    if not reference.is_file():
        save_file(own, reference)
        return None, None
    exact = load_file(reference)
    largest = max(float((own[name] - exact[name]).abs().max()) for name in exact)
    moved = length(algebra.subtract(exact, {name: tensor.cpu() for name, tensor in start.items()}))
    return largest, length(algebra.subtract(own, exact)) / moved


def length(weights: Weights) -> float:
    """Euclidean, over all tensors."""
    return math.sqrt(math.fsum(float(tensor.square().sum()) for tensor in weights.values()))


def title(first: Row) -> str:
    """Title of a table."""
    cell, taken = first.cell, first.rounds[0]
    return (
        f"ResNet-12 of width {cell.width}, {taken.weights / 1e6:.1f} million weights ({4 * taken.weights // MIB} MiB); "
        f"{cell.batch} images of {cell.side} x {cell.side}, {cell.steps} inner steps; "
        f"{len(first.rounds)} rounds, medians; {taken.before_bytes // MIB} MiB held before"
    )


def table(rows: Sequence[Row]) -> str:
    """Format the table of one size."""
    headings = ("way", "peak added, MiB", "ratio", "seconds", "ratio", "largest difference", "of the update")
    return markdown(headings, [line(row, rows[0]) for row in rows])


def line(row: Row, first: Row) -> tuple[str, ...]:
    """Format one row."""
    bytes_here, bytes_first = (median_bytes(each) for each in (row, first))
    seconds_here, seconds_first = (median_seconds(each) for each in (row, first))
    compared = [taken for taken in row.rounds if taken.largest is not None]
    largest = max((taken.largest or 0.0 for taken in compared), default=None)
    share = max((taken.share or 0.0 for taken in compared), default=None)
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
    """Median of the added peaks."""
    return statistics.median(taken.added_bytes for taken in row.rounds)


def median_seconds(row: Row) -> float:
    """Median over rounds."""
    return statistics.median(taken.seconds for taken in row.rounds)


if __name__ == "__main__":
    main()
