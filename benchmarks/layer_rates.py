"""Learning-rate multipliers by layer: their effect on accuracy, adaptation time and size of a version.

    python benchmarks/layer_rates.py [--data-root FOLDER] [--meta-steps 300] [--episodes 100] [--part training serving]

training: short meta-trainings on Omniglot with different inner multipliers, which are also used for serving, or with
different meta multipliers. serving: shipped checkpoints, trained with all multipliers 1 and adapted with others. All
rows of a table are scored on the same episodes and compared with its first row per episode. Times are processor times
of adapting to 50 images, medians of rounds in which the rows alternate. Bytes are what a version stores: weights that
differ from the start, the head, and the statistics. Without a data root, generated surfaces are used.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import torch
from rich.console import Console
from rich.progress import track

from benchmarks.figures import machine, machine_line, markdown
from benchmarks.meta_work import Data, open_data
from benchmarks.running_service import ServiceOptions
from models.checkpoint import Checkpoint, load_checkpoint
from models.config import PRESETS, LrMultipliers
from models.data.class_dataset import ClassDataset
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.data.registry import open_dataset
from models.data.synthetic import Textures
from models.errors import AdaptationDiverged, AnoleError
from models.meta.evaluation import EvaluationConfig, Score, evaluate
from models.meta.maml import make_meta_step
from models.meta.reptile import MetaTrainingState, inner_seeds, meta_train
from models.nets import build
from models.task import Support
from service.cli.train import CACHE
from service.runtime.loaded_checkpoint import LoadedCheckpoint
from service.store.tensor_bytes import to_bytes

PARTS: Final = ("training", "serving")
WAYS, QUERIES, TIMED_SHOTS, TASKS = 5, 10, 10, 1
JUDGED: Final = {"omniglot": "omniglot", "surfaces": "folder:x_sdd.zip"}
"""Shipped checkpoints and the data set that each is scored on."""


@dataclass(frozen=True)
class Way:
    """Learning-rate multipliers by layer.

    Attributes:
        name: name in the table.
        inner: multipliers of inner steps.
        meta: multipliers of meta steps; serving does not use them.
    """

    name: str
    inner: LrMultipliers = ()
    meta: LrMultipliers = ()


@dataclass
class Row:
    """A variant and its results.

    Attributes:
        way: the multipliers.
        start: checkpoint to adapt; None if its training failed.
        accuracies: one per episode.
        adapt_s: processor seconds of each timed adaptation.
        version_bytes: bytes of a version's weights.
        note: why a training failed.
    """

    way: Way
    start: Checkpoint | None
    accuracies: list[float] = field(default_factory=list)
    adapt_s: list[float] = field(default_factory=list)
    version_bytes: int = 0
    note: str = ""


def inner_ways(blocks: Sequence[str]) -> list[Way]:
    """Inner multipliers over a net's blocks, first to last; the first variant is the reference."""
    frozen = tuple((f"{block}.*", 0.0) for block in blocks[:-1])
    rising = tuple((f"{block}.*", 3.0 ** (place + 1 - len(blocks))) for place, block in enumerate(blocks))
    falling = tuple((f"{block}.*", 3.0**-place) for place, block in enumerate(blocks))
    return [
        Way("all 1"),
        Way("blocks 0.1, head 3", (("block*", 0.1), ("head.*", 3.0))),
        Way("blocks 0.1", (("block*", 0.1),)),
        Way("head only (as ANIL)", (("block*", 0.0),)),
        Way("blocks only (as BOIL)", (("head.*", 0.0),)),
        Way("last block and head", frozen),
        Way("scales, shifts and head", (("block*.weight", 0.0),)),
        Way("each block 3 x the one before, last 1", rising),
        Way("each block 1/3 of the one before, first 1", falling),
    ]


def meta_ways() -> list[Way]:
    """Meta rates for the four-block net."""
    return [
        Way("meta: first block 0.1", meta=(("block1.*", 0.1),)),
        Way("meta: first two blocks stay random", meta=(("block[12].*", 0.0),)),
        Way("meta: scales and shifts 0.1", meta=(("*.scale", 0.1), ("*.shift", 0.1))),
        Way("meta: all 0.5", meta=(("*", 0.5),)),
    ]


def main() -> None:
    """Print the selected tables."""
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    print(machine_line(machine(ServiceOptions(", ".join(arguments.checkpoints), torch_threads=arguments.threads))))
    try:
        if "training" in arguments.part:
            training(arguments)
        if "serving" in arguments.part:
            for name in arguments.checkpoints:
                serving(name, arguments)
    except AnoleError as error:
        sys.exit(f"error: {error}")


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=None, help="folder with omniglot and x_sdd.zip")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS, help="tables (default: both)")
    parser.add_argument("--checkpoints", nargs="+", choices=JUDGED, default=list(JUDGED), help="that are served")
    parser.add_argument("--meta-steps", type=int, default=300, help="of every training (default: %(default)s)")
    parser.add_argument("--shots", type=int, default=5, help="support images per class (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=100, help="scored, at least 2 (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="timed adaptations (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of trainings and episodes (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="inside one operation (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.episodes < 2 or arguments.rounds < 1 or arguments.meta_steps < 1:
        parser.error("--episodes must be at least 2, --rounds and --meta-steps at least 1")
    return arguments


def training(arguments: argparse.Namespace) -> None:
    """Train every variant and print the results."""
    data, preset = open_data(arguments.data_root), PRESETS["omniglot"]
    blocks = blocks_of(build(preset.net_config).start())
    rows = [trained(way, data, arguments) for way in (*inner_ways(blocks), *meta_ways())]
    measure(rows, data.test, arguments)
    print(f"\nTrained {arguments.meta_steps} meta steps each (preset omniglot, seed {arguments.seed}) on {data.name}")
    print(f"{asked(arguments)}\n\n{table(rows)}", flush=True)


def trained(way: Way, data: Data, arguments: argparse.Namespace) -> Row:
    """A short training by a way's rates."""
    preset = PRESETS["omniglot"]
    net, spec = build(preset.net_config, arguments.seed), preset.net_config.image
    meta = replace(preset.meta, meta_steps=arguments.meta_steps, seed=arguments.seed, lr_multipliers=way.meta)
    shape = EpisodeShape(meta.n_way, meta.train_shots, anchor_shots=meta.anchor_shots)
    source = EpisodeSampler(data.train, shape, spec)

    def tasks(meta_step: int) -> list[Support]:
        return [source.support(seed) for seed in inner_seeds(meta.seed + TASKS, meta_step, meta.meta_batch)]

    recipe, serve = (replace(loop, lr_multipliers=way.inner) for loop in (preset.recipe, preset.serve))
    last = MetaTrainingState(net.start())
    states = meta_train(net, last, tasks, recipe, meta, make_meta_step(meta))
    try:
        for state in track(states, way.name, total=meta.meta_steps, console=Console(stderr=True)):
            last = state
    except AdaptationDiverged:
        return Row(way, None, note=f"diverged at meta step {last.meta_step + 1}")
    return Row(way, Checkpoint("trained", preset.net_config, serve, last.start))


def serving(name: str, arguments: argparse.Namespace) -> None:
    """Adapt a shipped checkpoint with every variant and print the results."""
    shipped = load_checkpoint(name)
    spec = shipped.net_config.image
    if arguments.data_root is None:
        classes: ClassDataset = Textures(spec.side, spec.channels, seed=1, lines=24)
        scored_on = "generated surfaces (no --data-root)"
    else:
        classes = open_dataset(JUDGED[name], spec, arguments.data_root, CACHE).test
        scored_on = classes.name
    ways = inner_ways(blocks_of(shipped.weights))
    rows = [Row(way, replace(shipped, recipe=replace(shipped.recipe, lr_multipliers=way.inner))) for way in ways]
    half = replace(shipped.recipe, precision="bfloat16")
    rows.append(Row(Way("all 1, in bfloat16"), replace(shipped, recipe=half)))
    measure(rows, classes, arguments)
    loop = f"{shipped.recipe.steps} steps at rate {shipped.recipe.learning_rate}"
    print(f"\nCheckpoint {name}, digest {shipped.digest[:12]}, {loop}; scored on {scored_on}")
    print(f"{asked(arguments)}\n\n{table(rows)}", flush=True)


def blocks_of(names: Iterable[str]) -> list[str]:
    """A net's blocks from its first to its last, by the names of its weights."""
    return list(dict.fromkeys(name.split(".")[0] for name in names if name.startswith("block")))


def measure(rows: Sequence[Row], classes: ClassDataset, arguments: argparse.Namespace) -> None:
    """Score and time every row that has a start."""
    there = [(row, row.start) for row in rows if row.start is not None]
    for row, start in track(there, "scoring", console=Console(stderr=True)):
        source = EpisodeSampler(classes, EpisodeShape(WAYS, arguments.shots, QUERIES), start.net_config.image)
        plan = EvaluationConfig(arguments.episodes, arguments.seed, start.recipe.statistics)
        row.accuracies = list(evaluate(start.build_net(), start.weights, source, start.recipe, plan, start.moments))
    learners = [(row, start, LoadedCheckpoint(start, torch.device("cpu"))) for row, start in there]
    for number in range(arguments.rounds):
        for row, start, learner in learners:
            timed = EpisodeSampler(classes, EpisodeShape(WAYS, TIMED_SHOTS), start.net_config.image)
            support, began = timed.support(arguments.seed + number), time.process_time()
            adapted = learner.adapt(support, start.recipe, number)
            row.adapt_s.append(time.process_time() - began)
            row.version_bytes = len(to_bytes(learner.delta(adapted)))


def asked(arguments: argparse.Namespace) -> str:
    """Describe the scored episodes."""
    return (
        f"{WAYS}-way {arguments.shots}-shot, {QUERIES} queries a class, {arguments.episodes} episodes, seed "
        f"{arguments.seed}, 95 % intervals; times of {WAYS * TIMED_SHOTS} images, {arguments.rounds} rounds"
    )


def table(rows: Sequence[Row]) -> str:
    """Format rows as a table."""
    headings = ("rates", "accuracy", "against the first", "adapt, ms", "ratio", "version, bytes", "ratio")
    return markdown(headings, [line(row, rows[0]) for row in rows])


def line(row: Row, first: Row) -> tuple[str, ...]:
    """Format one row."""
    if row.start is None:
        return (row.way.name, row.note, *[""] * 5)
    behind = [own - other for own, other in zip(row.accuracies, first.accuracies, strict=False)]
    adapt_s, version_bytes = statistics.median(row.adapt_s), row.version_bytes
    return (
        row.way.name,
        interval(row.accuracies, "{:.2f} ± {:.2f} %"),
        "" if row is first or not behind else interval(behind, "{:+.2f} ± {:.2f}"),
        f"{1e3 * adapt_s:.0f}",
        f"{adapt_s / statistics.median(first.adapt_s):.2f}" if first.adapt_s else "",
        f"{version_bytes:,}",
        f"{version_bytes / first.version_bytes:.2f}" if first.version_bytes else "",
    )


def interval(values: Sequence[float], form: str) -> str:
    """Mean and half of the 95 % interval, in per cent."""
    score = Score(tuple(values))
    return form.format(100 * score.mean, 100 * score.half_width)


if __name__ == "__main__":
    main()
