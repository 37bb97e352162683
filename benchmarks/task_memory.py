"""A memory of tasks against the start alone, in four domains and in one that the memory never saw.

    python benchmarks/task_memory.py --data-root FOLDER [--checkpoint omniglot] [--episodes 40] [--picture PNG]
        [--json]

The memory holds tasks of training classes, in equal shares: characters (Omniglot), textures (photographs of materials),
photographs (mini-ImageNet) and generated surfaces, as the net sees them (28 pixels, grey). It is kept in the folder and
used again by the next run. The start itself was meta-trained on characters alone.

Episodes are 5-way, of test classes. Those of steel (X-SDD) show whether a memory without such tasks does harm. Every
episode is adapted with the same seed from the start and from what the memory recalls. Cross-validation chooses between
the two, as in `anole evaluate --memory`; with one shot it has no folds and chooses the start. Differences are paired
by episode.

With --retaught, the table instead shows a client that is taught its classes again, with other images: while the memory
has its earlier task, and after this was deleted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.figures import Parser, differences, machine, machine_line, markdown, percent, points, script
from benchmarks.fixtures import folded
from benchmarks.intervals import plot_intervals
from models.adaptation.adapt import Adapted, adapt_inputs, adapt_one
from models.atomic_files import write_atomically
from models.checkpoint import Checkpoint, load_checkpoint
from models.config import MetaTrainingConfig
from models.data.class_dataset import ClassDataset, DatasetSubset
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.data.registry import open_dataset
from models.data.synthetic import Textures
from models.images.preprocessing import ImageConfig
from models.inference.predict import logits_and_features
from models.meta.evaluation import Score
from models.meta.memory import MemoryConfig, TaskMemory, build_memory, load_memory
from models.meta.training import WeightedDataset, task_source
from models.nets import Net
from models.task import Support, Task
from models.validation.cross_validation import CrossValidator
from service.cli.console import progress
from service.cli.train import CACHE

DOMAINS: Final = ("characters", "textures", "photographs", "surfaces", "steel")
WAYS: Final = 5
CPU: Final = torch.device("cpu")
TASKS: Final = MetaTrainingConfig(meta_steps=1, meta_batch=4, n_way=WAYS, train_shots=10, within_line=1.0)
"""Remembered tasks. Those of generated surfaces have the classes of one product line."""
DATASETS: Final = {
    "characters": "omniglot",
    "textures": "folder:licensed/ambientcg_materials.zip",
    "photographs": "mini-imagenet",
    "steel": "folder:x_sdd.zip",
}
FEWEST_IMAGES: Final = 16
"""Images of a material that is used: more than shots and queries together."""


@dataclass(frozen=True)
class Domain:
    """Training and test classes of one kind of images; `train` is None where no training may see it."""

    train: ClassDataset | None
    test: ClassDataset


def open_domain(name: str, image: ImageConfig, data_root: Path) -> Domain:
    """Open the images of one of `DOMAINS`."""
    if name == "surfaces":
        return Domain(*(Textures(image.side, image.channels, seed=seed, lines=64 >> seed) for seed in (0, 1)))
    opened = open_dataset(DATASETS[name], image, data_root, CACHE)
    if name == "textures":
        large = [index for index in range(len(opened.train)) if opened.train.count(index) >= FEWEST_IMAGES]
        order = torch.randperm(len(large), generator=torch.Generator().manual_seed(0)).tolist()
        halves = order[: 6 * len(order) // 10], order[6 * len(order) // 10 :]
        return Domain(*(DatasetSubset(opened.train, [large[each] for each in half], name) for half in halves))
    return Domain(None if name == "steel" else opened.train, opened.test)


def remembered(start: Checkpoint, arguments: argparse.Namespace) -> TaskMemory:
    """The memory of training tasks, from the folder or newly made."""
    path = arguments.folder / f"{start.digest[:12]}-{arguments.tasks}-{arguments.seed}.safetensors"
    config = MemoryConfig(arguments.tasks, arguments.neighbours, arguments.temperature)
    if path.is_file():
        return replace(load_memory(path, start.digest), config=config)
    domains = [open_domain(name, start.net_config.image, arguments.data_root) for name in DOMAINS]
    sets = [WeightedDataset(domain.train) for domain in domains if domain.train is not None]
    source = task_source(sets, start.net_config, replace(TASKS, seed=arguments.seed), CPU)
    memory = TaskMemory(start.digest, config)
    with progress("remembering", arguments.tasks) as report:
        for grown in build_memory(memory, start.build_net(), start.weights, source, start.recipe):
            memory = grown
            report(len(memory), "")
    memory.save(path)
    return memory


@dataclass
class Cell:
    """Accuracies of the same episodes at one number of inner steps, and the share of them that kept the recalled start.

    Attributes:
        alone: from the start.
        recalled: from what the memory recalls.
        chosen: from the one of the two that cross-validation chooses.
        kept: whether it chose the recalled start.
    """

    alone: list[float] = field(default_factory=list)
    recalled: list[float] = field(default_factory=list)
    chosen: list[float] = field(default_factory=list)
    kept: list[bool] = field(default_factory=list)


@dataclass
class Retaught:
    """Accuracies of tasks whose classes were taught before, with other images.

    Attributes:
        alone: from the start.
        own: from what the memory recalls while it has the earlier task.
        deleted: from what it recalls after that was deleted.
    """

    alone: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    deleted: list[float] = field(default_factory=list)


Cells = dict[tuple[str, int, int], Cell]
"""(domain, shots, inner steps) -> accuracies."""


@dataclass(frozen=True)
class Scorer:
    """Scores episodes with and without a memory."""

    start: Checkpoint
    memory: TaskMemory
    net: Net

    def score(self, source: EpisodeSampler, steps: int, seed: int, cell: Cell) -> None:
        """Add one episode to a cell. Where what the memory recalls diverges, the start alone counts for both."""
        task, weights = source.task(seed), self.start.weights
        validator = CrossValidator(self.net, weights, task_memory=self.memory)
        recipe = self.start.recipe.adjusted(steps, None)
        plan = validator.plan(task.support, recipe, seed, task.support.sample_groups)
        candidates = plan.candidates(adapt_inputs(self.net, weights, plan.inputs))  # without and with the memory
        kept = validator.choose(candidates).start is not None
        cell.alone.append(self._accuracy(candidates[0].adapted, task))
        cell.recalled.append(self._accuracy(candidates[-1].adapted, task))
        cell.chosen.append(cell.recalled[-1] if kept else cell.alone[-1])
        cell.kept.append(kept)

    def score_retaught(self, source: EpisodeSampler, shots: int, steps: int, seed: int, cell: Retaught) -> None:
        """Add one episode, whose support has twice the shots: the first ones were taught before, the others are now."""
        task, net, start = source.task(seed), self.net, self.start.weights
        images = task.support.inputs.view(task.support.n_way, 2 * shots, *net.input_shape)
        labels = torch.arange(task.support.n_way).repeat_interleave(shots)
        before, now = (
            Support(half.flatten(0, 1), labels, len(images)) for half in (images[:, :shots], images[:, shots:])
        )
        with_own = self.memory.remember(net, start, [before], self.start.recipe, [seed])
        recipe = self.start.recipe.adjusted(steps, None)
        starts = start, with_own.start_for(net, start, now), self.memory.start_for(net, start, now)
        for weights, scores in zip(starts, (cell.alone, cell.own, cell.deleted), strict=True):
            scores.append(self._accuracy(adapt_one(net, weights, now, recipe, seed), task))

    def _accuracy(self, adapted: Adapted, task: Task) -> float:
        stacked = {name: tensor[None] for name, tensor in folded(adapted).items()}
        with torch.no_grad():
            logits, _ = logits_and_features(self.net, stacked, task.query_inputs[None], None)
        return float((logits[0].argmax(-1) == task.query_labels).float().mean())


def scored(scorer: Scorer, domains: Mapping[str, Domain], arguments: argparse.Namespace) -> Cells:
    """Score all domains, shots and steps on test classes."""
    cells: Cells = {}
    total = len(domains) * len(arguments.shots) * len(arguments.steps) * arguments.episodes
    done = 0
    with progress("scoring", total) as report:
        for name, domain in domains.items():
            for shots in arguments.shots:
                shape = EpisodeShape(min(WAYS, len(domain.test)), shots, arguments.queries)
                source = EpisodeSampler(domain.test, shape, scorer.start.net_config.image, within_line=1.0)
                for steps in arguments.steps:
                    cell = cells.setdefault((name, shots, steps), Cell())
                    for episode in range(arguments.episodes):
                        scorer.score(source, steps, arguments.seed + episode, cell)
                        done += 1
                        report(done, f"{name}, {shots}-shot, {steps} steps")
    return cells


def retaught(scorer: Scorer, domains: Mapping[str, Domain], arguments: argparse.Namespace) -> dict[Any, Retaught]:
    """Score clients that are taught again, on test classes: (domain, shots, inner steps) -> accuracies."""
    cells: dict[Any, Retaught] = {}
    for name, domain in domains.items():
        for shots in arguments.shots:
            shape = EpisodeShape(min(WAYS, len(domain.test)), 2 * shots, arguments.queries)
            source = EpisodeSampler(domain.test, shape, scorer.start.net_config.image, within_line=1.0)
            for steps in arguments.steps:
                cell = cells[name, shots, steps] = Retaught()
                for seed in range(arguments.seed, arguments.seed + arguments.episodes):
                    scorer.score_retaught(source, shots, steps, seed, cell)
    return cells


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.data_root("omniglot/, mini-imagenet.zip, licensed/ and x_sdd.zip", required=True)
    parser.option("--checkpoint", "omniglot", "name of a shipped checkpoint, or path to one")
    parser.add_argument("--learning-rate", type=float, help="of the inner steps (default: from the checkpoint)")
    parser.add_argument("--remembered-steps", type=int, help="steps of the remembered tasks (default: likewise)")
    parser.option("--folder", Path("data/task-memory"), "folder for the memory")
    parser.option("--tasks", 256, "tasks to remember")
    parser.option("--neighbours", MemoryConfig.neighbours, "most tasks that a new one recalls")
    parser.option("--temperature", MemoryConfig.temperature, "of the softmax over their similarities")
    parser.option("--only", list(DOMAINS), "domains to score", choices=DOMAINS, metavar="DOMAIN")
    parser.option("--shots", [1, 5], "support images per class")
    parser.option("--steps", [0, 1, 2, 5, 15], "inner steps")
    parser.add_argument("--retaught", action="store_true", help="score clients that are taught again instead")
    parser.option("--queries", 10, "query images per class")
    parser.option("--episodes", 40, "episodes per domain and number of shots", least=2)
    parser.option("--seed", 0, "seed of the memory and of the first episode")
    parser.option("--threads", 1, "threads per operation")
    parser.add_argument("--picture", type=Path, help="PNG to write: the differences, for one number of shots")
    parser.json()
    arguments = parser.parse_args()
    if arguments.picture is not None and (arguments.retaught or len(arguments.shots) != 1):
        parser.error("argument --picture: needs one number of --shots, and no --retaught")
    return arguments


@script
def main() -> None:
    """Train and remember what is missing, score, and print the table."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    record: dict[str, Any] = {"machine": machine(arguments.checkpoint, threads=arguments.threads), **vars(arguments)}
    start = load_checkpoint(arguments.checkpoint)
    start = replace(start, recipe=start.recipe.adjusted(arguments.remembered_steps, arguments.learning_rate))
    memory = remembered(start, arguments)
    domains = {name: open_domain(name, start.net_config.image, arguments.data_root) for name in arguments.only}
    scorer = Scorer(start, memory, start.build_net())
    again = retaught(scorer, domains, arguments) if arguments.retaught else {}
    cells = {} if arguments.retaught else scored(scorer, domains, arguments)
    if arguments.picture is not None:
        write_atomically(arguments.picture, picture(cells), durable=False)
    record |= {
        "recipe": start.recipe.to_json(),
        "digest": start.digest,
        "memory": memory.digest,
        "remembered": len(memory),
    }
    record["cells"] = [
        {"domain": name, "shots": shots, "steps": steps, **asdict(cell)} for (name, shots, steps), cell in cells.items()
    ]
    record["retaught"] = [
        {"domain": name, "shots": shots, "steps": steps, **asdict(cell)} for (name, shots, steps), cell in again.items()
    ]
    print(json.dumps(record, indent=2, default=str) if arguments.json else table(record, cells, again))


def table(record: Mapping[str, Any], cells: Cells, again: Mapping[Any, Retaught]) -> str:
    """The results as text."""
    rows = [
        (
            f"{name}, {shots}-shot",
            str(steps),
            percent(Score(tuple(cell.alone))),
            points(differences(cell.recalled, cell.alone)),
            points(differences(cell.chosen, cell.alone)),
            f"{100 * sum(cell.kept) / len(cell.kept):.0f} %",
        )
        for (name, shots, steps), cell in cells.items()
    ]
    columns = ("episodes", "inner steps", "start alone", "always recalled", "chosen by cross-validation", "kept")
    recipe = record["recipe"]
    recalled = f"{record['neighbours']} neighbours, temperature {record['temperature']}"
    return "\n".join([
        f"5-way, {record['queries']} queries per class, {record['episodes']} episodes, seed {record['seed']}",
        f"inner loop: learning rate {recipe['learning_rate']}; tasks remembered after {recipe['steps']} steps",
        f"start {record['digest'][:12]}; memory {record['memory'][:12]}: {record['remembered']} tasks, {recalled}",
        machine_line(record["machine"]),
        "Accuracy with 95 % interval; differences to the start alone in points, paired by episode.",
        "",
        retaught_rows(again) if again else markdown(columns, rows),
    ])  # fmt: skip


def picture(cells: Cells) -> bytes:
    """Plot the differences to the start alone: a PNG with a panel for each number of inner steps."""
    panels: dict[str, dict[str, dict[str, Score]]] = {}
    for (name, _, steps), cell in cells.items():
        panels.setdefault(f"{steps} inner step{'s' * (steps != 1)}", {})[name] = {
            "always recalled": differences(cell.recalled, cell.alone),
            "chosen by cross-validation": differences(cell.chosen, cell.alone),
        }
    return plot_intervals(panels, "points above the start alone", against=0.0)


def retaught_rows(cells: Mapping[Any, Retaught]) -> str:
    """The results of clients that are taught again."""
    rows = [
        (
            f"{name}, {shots}-shot",
            str(steps),
            percent(Score(tuple(cell.alone))),
            points(differences(cell.own, cell.alone)),
            points(differences(cell.deleted, cell.alone)),
        )
        for (name, shots, steps), cell in cells.items()
    ]
    columns = ("taught again", "inner steps", "start alone", "with the earlier task", "after it was deleted")
    return markdown(columns, rows)


if __name__ == "__main__":
    main()
