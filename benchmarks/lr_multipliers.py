"""Learning-rate multipliers by layer: their effect on accuracy, adaptation time and size of a version.

    python benchmarks/lr_multipliers.py [--data-root FOLDER] [--meta-steps 300] [--part training serving]

training: short meta-trainings on Omniglot with different inner multipliers, which are also used for serving, or with
different meta multipliers. serving: shipped checkpoints, trained with all multipliers 1 and adapted with others. All
rows of a table are scored on the same episodes and compared with its first row per episode. Times are processor times
of adapting to 50 images, medians of rounds in which the rows alternate. Bytes are what a version stores: weights that
differ from the start, the head, and the statistics. Without a data root, generated surfaces are used.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import torch
from rich.console import Console
from rich.progress import track

from benchmarks.figures import Parser, differences, machine, machine_line, markdown, percent, points, script
from benchmarks.meta_comparison import Data, open_data
from models.checkpoint import Checkpoint, load_checkpoint
from models.config import PRESETS, LrMultipliers
from models.data.class_dataset import ClassDataset
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.data.registry import open_dataset
from models.data.synthetic import Textures
from models.errors import AdaptationDiverged
from models.meta.evaluation import EvaluationConfig, Score, evaluate
from models.meta.outer_loop import MetaTrainingState, inner_seeds, meta_train
from models.meta.training import make_meta_step
from models.nets import build
from models.task import Support
from service.cli.train import CACHE
from service.runtime.loaded_checkpoint import LoadedCheckpoint
from service.store.tensor_bytes import to_bytes

PARTS: Final = ("training", "serving")
WAYS, QUERIES, TIMED_SHOTS, TASKS = 5, 10, 10, 1
DATASETS: Final = {"omniglot": "omniglot", "surfaces": "folder:x_sdd.zip"}
"""Shipped checkpoints and the dataset that each is scored on."""


@dataclass(frozen=True)
class Choice:
    """A choice of multipliers.

    Attributes:
        name: row of the table.
        inner: multipliers of the inner steps.
        meta: multipliers of the meta steps; serving does not use them.
    """

    name: str
    inner: LrMultipliers = ()
    meta: LrMultipliers = ()


@dataclass
class Row:
    """A choice and its results.

    Attributes:
        choice: the multipliers.
        start: the checkpoint to adapt, with its recipe; None if the training diverged.
        accuracies: one per episode.
        adapt_s: processor seconds of each timed adaptation.
        version_bytes: size of a version's weights.
        note: reason for a missing start.
    """

    choice: Choice
    start: Checkpoint | None
    accuracies: list[float] = field(default_factory=list)
    adapt_s: list[float] = field(default_factory=list)
    version_bytes: int = 0
    note: str = ""


def inner_choices(blocks: Sequence[str]) -> list[Choice]:
    """Multipliers of the inner steps for these blocks in order; the first choice is the reference."""
    frozen = tuple((f"{block}.*", 0.0) for block in blocks[:-1])
    rising = tuple((f"{block}.*", 3.0 ** (place + 1 - len(blocks))) for place, block in enumerate(blocks))
    falling = tuple((f"{block}.*", 3.0**-place) for place, block in enumerate(blocks))
    return [
        Choice("all 1"),
        Choice("blocks 0.1, head 3", (("block*", 0.1), ("head.*", 3.0))),
        Choice("blocks 0.1", (("block*", 0.1),)),
        Choice("head only (as ANIL)", (("block*", 0.0),)),
        Choice("blocks only (as BOIL)", (("head.*", 0.0),)),
        Choice("last block and head", frozen),
        Choice("scales, shifts and head", (("block*.weight", 0.0),)),
        Choice("each block 3 x the previous one, last 1", rising),
        Choice("each block 1/3 of the previous one, first 1", falling),
    ]


def meta_choices() -> list[Choice]:
    """Multipliers of the meta steps for the four-block net."""
    return [
        Choice("meta: first block 0.1", meta=(("block1.*", 0.1),)),
        Choice("meta: first two blocks stay random", meta=(("block[12].*", 0.0),)),
        Choice("meta: scales and shifts 0.1", meta=(("*.scale", 0.1), ("*.shift", 0.1))),
        Choice("meta: all 0.5", meta=(("*", 0.5),)),
    ]


@script
def main() -> None:
    """Run the parts and print their tables."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    print(machine_line(machine(", ".join(arguments.checkpoints), threads=arguments.threads)))
    if "training" in arguments.part:
        training(arguments)
    if "serving" in arguments.part:
        for name in arguments.checkpoints:
            serving(name, arguments)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.data_root("omniglot/ and x_sdd.zip")
    parser.option("--part", list(PARTS), "parts to run", choices=PARTS)
    parser.option("--checkpoints", list(DATASETS), "checkpoints to serve", choices=DATASETS)
    parser.option("--meta-steps", 300, "meta steps of each training", least=1)
    parser.option("--shots", 5, "support images per class")
    parser.option("--episodes", 100, "scored episodes", least=2)
    parser.option("--rounds", 5, "timed adaptations", least=1)
    parser.option("--seed", 0, "seed of trainings and episodes")
    parser.option("--threads", 1, "threads per operation")
    return parser.parse_args()


def training(arguments: argparse.Namespace) -> None:
    """Train with every choice and print the results."""
    data, preset = open_data(arguments.data_root), PRESETS["omniglot"]
    blocks = blocks_of(build(preset.net_config).start())
    rows = [trained(choice, data, arguments) for choice in (*inner_choices(blocks), *meta_choices())]
    measure(rows, data.test, arguments)
    print(f"\nTrained {arguments.meta_steps} meta steps each (preset omniglot, seed {arguments.seed}) on {data.name}")
    print(f"{episodes_line(arguments)}\n\n{table(rows)}", flush=True)


def trained(choice: Choice, data: Data, arguments: argparse.Namespace) -> Row:
    """A short training with the multipliers of a choice."""
    preset = PRESETS["omniglot"]
    net, spec = build(preset.net_config, arguments.seed), preset.net_config.image
    meta = replace(preset.meta, meta_steps=arguments.meta_steps, seed=arguments.seed, lr_multipliers=choice.meta)
    shape = EpisodeShape(meta.n_way, meta.train_shots, anchor_shots=meta.anchor_shots)
    source = EpisodeSampler(data.train, shape, spec)

    def tasks(meta_step: int) -> list[Support]:
        return [source.support(seed) for seed in inner_seeds(meta.seed + TASKS, meta_step, meta.meta_batch)]

    recipe, serve = (replace(loop, lr_multipliers=choice.inner) for loop in (preset.recipe, preset.serve))
    last = MetaTrainingState(net.start())
    states = meta_train(net, last, tasks, recipe, meta, make_meta_step(meta))
    try:
        for state in track(states, choice.name, total=meta.meta_steps, console=Console(stderr=True)):
            last = state
    except AdaptationDiverged:
        return Row(choice, None, note=f"diverged at meta step {last.meta_step + 1}")
    return Row(choice, Checkpoint("trained", preset.net_config, serve, last.start))


def serving(name: str, arguments: argparse.Namespace) -> None:
    """Adapt a shipped checkpoint with every choice and print the results."""
    shipped = load_checkpoint(name)
    spec = shipped.net_config.image
    if arguments.data_root is None:
        classes: ClassDataset = Textures(spec.side, spec.channels, seed=1, lines=24)
        data_name = "generated surfaces (no --data-root)"
    else:
        classes = open_dataset(DATASETS[name], spec, arguments.data_root, CACHE).test
        data_name = classes.name
    choices = inner_choices(blocks_of(shipped.weights))
    rows = [
        Row(choice, replace(shipped, recipe=replace(shipped.recipe, lr_multipliers=choice.inner))) for choice in choices
    ]
    half = replace(shipped.recipe, precision="bfloat16")
    rows.append(Row(Choice("all 1, in bfloat16"), replace(shipped, recipe=half)))
    measure(rows, classes, arguments)
    loop = f"{shipped.recipe.steps} steps at learning rate {shipped.recipe.learning_rate}"
    print(f"\nCheckpoint {name}, digest {shipped.digest[:12]}, {loop}; scored on {data_name}")
    print(f"{episodes_line(arguments)}\n\n{table(rows)}", flush=True)


def blocks_of(names: Iterable[str]) -> list[str]:
    """The blocks of a net in order, from the names of its weights."""
    return list(dict.fromkeys(name.split(".")[0] for name in names if name.startswith("block")))


def measure(rows: Sequence[Row], classes: ClassDataset, arguments: argparse.Namespace) -> None:
    """Score and time every row that has a start."""
    present = [(row, row.start) for row in rows if row.start is not None]
    for row, start in track(present, "scoring", console=Console(stderr=True)):
        source = EpisodeSampler(classes, EpisodeShape(WAYS, arguments.shots, QUERIES), start.net_config.image)
        plan = EvaluationConfig(arguments.episodes, arguments.seed, start.recipe.statistics)
        row.accuracies = list(evaluate(start.build_net(), start.weights, source, start.recipe, plan, start.moments))
    learners = [(row, start, LoadedCheckpoint(start, torch.device("cpu"))) for row, start in present]
    for number in range(arguments.rounds):
        for row, start, learner in learners:
            timed = EpisodeSampler(classes, EpisodeShape(WAYS, TIMED_SHOTS), start.net_config.image)
            support, began = timed.support(arguments.seed + number), time.process_time()
            adapted = learner.adapt(support, start.recipe, number)
            row.adapt_s.append(time.process_time() - began)
            row.version_bytes = len(to_bytes(learner.delta(adapted)))


def episodes_line(arguments: argparse.Namespace) -> str:
    """The episodes of the scores."""
    return (
        f"{WAYS}-choice {arguments.shots}-shot, {QUERIES} queries per class, {arguments.episodes} episodes, seed "
        f"{arguments.seed}, 95 % intervals; times of {WAYS * TIMED_SHOTS} images, {arguments.rounds} rounds"
    )


def table(rows: Sequence[Row]) -> str:
    """The results as a table."""
    headings = (
        "multipliers",
        "accuracy",
        "difference to the first row",
        "adapt, ms",
        "ratio",
        "version, bytes",
        "ratio",
    )
    return markdown(headings, [line(row, rows[0]) for row in rows])


def line(row: Row, first: Row) -> tuple[str, ...]:
    """One line of the table."""
    if row.start is None:
        return (row.choice.name, row.note, *[""] * 5)
    adapt_s, version_bytes = statistics.median(row.adapt_s), row.version_bytes
    return (
        row.choice.name,
        percent(Score(tuple(row.accuracies)), 2),
        "" if row is first or first.start is None else points(differences(row.accuracies, first.accuracies), 2),
        f"{1e3 * adapt_s:.0f}",
        f"{adapt_s / statistics.median(first.adapt_s):.2f}" if first.adapt_s else "",
        f"{version_bytes:,}",
        f"{version_bytes / first.version_bytes:.2f}" if first.version_bytes else "",
    )


if __name__ == "__main__":
    main()
