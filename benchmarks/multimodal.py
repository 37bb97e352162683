"""Two modalities against each alone: images with pen strokes, and surfaces with notes.

    python benchmarks/multimodal.py --data-root FOLDER [--part strokes notes] [--episodes 200] [--folder DIR]
        [--picture PNG] [--json]

strokes: meta-trains the same net on Omniglot's drawings with images alone, with strokes alone, and in one or more ways
(--trainings) with both. They are scored on characters of alphabets that none of them was trained on, 20-way, on the
same episodes. notes: scores a checkpoint on generated surfaces, 6-way, where the picture shows the kind of the defect
and the note its side, in words that no training line had. For a frozen backbone, such as efficientnet-lite0, surfaces
are drawn at the size of its images, and it is also scored with notes that tell nothing. Trainings are saved in the
folder; run the same command again to resume.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.figures import Parser, differences, markdown, percent, points, script
from benchmarks.intervals import plot_intervals
from models.atomic_files import write_atomically
from models.checkpoint import Checkpoint, load_checkpoint
from models.config import PRESETS, MetaTrainingConfig
from models.data.class_dataset import ClassDataset
from models.data.episodes import EpisodeModalities, EpisodeSampler, EpisodeShape
from models.data.registry import DatasetSplits, open_dataset
from models.inference.embedding import Embedder, embed_task, embedder_for
from models.meta.evaluation import EvaluationConfig, Score, evaluate
from models.meta.training import TrainingRun, TrainingRunConfig, WeightedDataset
from models.modalities.rows import FLAGS, Present, keep_only
from models.modalities.text import TEXT_SIZE
from models.nets.multimodal import IMAGE_PREFIX
from models.task import Task
from models.weights import Weights
from service.cli.console import progress
from service.cli.train import CACHE

PARTS: Final = ("strokes", "notes")
PRESET: Final = PRESETS["omniglot-strokes"]
SHOTS: Final = (1, 5)


TRAININGS: Final = {
    "joint": "trained with both",
    "dropout": "trained with both, every task lacking one somewhere",
    "apart": "encoders trained apart",
    "apart-short": "encoders trained apart, in half the meta steps each",
    "apart-joint": "encoders trained apart, in half the meta steps each, then together",
}
"""How a net for both modalities can be trained, see `train`."""


@dataclass(frozen=True)
class Row:
    """A net and what its episodes have.

    Attributes:
        name: of the row.
        trained: "image" or "second" for a net that is trained with one modality alone, or one of `TRAININGS`.
        support: modalities of the support.
        query: modalities of the queries.
        rival: name of the row that it is compared with; for rows with both, the better of those alone.
    """

    name: str
    trained: str
    support: Present
    query: Present
    rival: str = ""


IMAGES, SECONDS = "trained and taught with images alone", "trained and taught with the second modality alone"
ALONE: Final = (Row(IMAGES, "image", "image", "image"), Row(SECONDS, "second", "second", "second"))


def rows_of(training: str) -> tuple[Row, ...]:
    """Rows of a net that knows both modalities: with both, and with one missing in the support or at prediction."""
    name = TRAININGS[training]
    return (
        Row(name, training, "both", "both"),
        Row(f"{name}; taught with images alone", training, "image", "image", IMAGES),
        Row(f"{name}; taught with the second modality alone", training, "second", "second", SECONDS),
        Row(f"{name}; images alone at prediction", training, "both", "image", IMAGES),
        Row(f"{name}; the second modality alone at prediction", training, "both", "second", SECONDS),
    )


Scores = Mapping[str, Sequence[float]]
"""Row -> one accuracy per episode."""


@script
def main() -> None:
    """Train and score what is missing, and print the tables."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    result = run(arguments)
    if arguments.picture is not None:
        write_atomically(arguments.picture, picture(result[arguments.part[0]]), durable=False)
    print(json.dumps(result) if arguments.json else "\n\n".join(tables(result)))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("--data-root", type=Path, help="folder with omniglot/")
    parser.option("--part", list(PARTS), "what to measure", choices=PARTS)
    parser.option("--trainings", ["joint", "apart"], "ways to train for both modalities", choices=TRAININGS)
    parser.option("--meta-steps", PRESET.meta.meta_steps, "meta steps of each training")
    parser.option("--episodes", 200, "episodes for each number of shots", least=2)
    parser.option("--queries", 5, "queries per class")
    parser.option("--notes-shots", [1, 5, 10], "samples per class of the part notes")
    parser.option("--checkpoint", "surface-notes", "checkpoint for the part notes")
    parser.option("--lines", "surface-notes", "dataset of the part notes; surface-notes:val is for choosing settings")
    parser.option("--folder", Path("data/multimodal"), "folder for trainings")
    parser.option("--threads", 1, "threads per operation")
    parser.add_argument("--picture", type=Path, help="PNG to write: the accuracies, of one --part")
    parser.json()
    arguments = parser.parse_args()
    if arguments.picture is not None and len(arguments.part) != 1:
        parser.error(f"argument --picture: needs one --part, got {' '.join(arguments.part)}")
    return arguments


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and score: part -> shots -> row -> accuracies."""
    result: dict[str, Any] = {"episodes": arguments.episodes, "queries": arguments.queries}
    if "strokes" in arguments.part:
        data = open_dataset("omniglot-strokes", PRESET.net_config.image, arguments.data_root, CACHE)
        starts = {trained: train(trained, data, arguments) for trained in ("image", "second", *arguments.trainings)}
        rows = [*ALONE, *(row for training in arguments.trainings for row in rows_of(training))]
        result["strokes"] = {shots: score_rows(rows, starts, data.test, (20, shots), arguments) for shots in SHOTS}
    if "notes" in arguments.part:
        start = load_checkpoint(arguments.checkpoint)
        data = open_dataset(arguments.lines, start.net_config.image, None, CACHE)
        score = score_backbone if start.net_config.kind == "backbone" else score_trained
        result["notes"] = {shots: score(start, data.test, (6, shots), arguments) for shots in arguments.notes_shots}
    return result


def train(training: str, data: DatasetSplits, arguments: argparse.Namespace) -> Checkpoint:
    """Train the net of the preset in one of the ways, or load what is trained.

    "image" and "second" train with one modality alone; "joint" and "dropout" with both, and with modality dropout in
    half or all of the tasks. "apart" puts together the encoders of the first two, which needs no further training.
    "apart-short" does so after half of the meta steps each, so that all take as many as for "joint", and "apart-joint"
    trains that net further for a quarter of them, as "joint" does.
    """
    alone: dict[str, Any] = {"modality_dropout": 0.0}
    steps = arguments.meta_steps
    short = replace(PRESET.meta, meta_steps=steps // 2, **alone)
    if training == "apart":
        return joined(*(train(modality, data, arguments) for modality in ("image", "second")))
    if training == "apart-short":
        metas = [replace(short, modalities=modality) for modality in ("image", "second")]
        return joined(*(trained(f"{meta.modalities}-short", meta, data, arguments) for meta in metas))
    if training == "apart-joint":
        start = train("apart-short", data, arguments)
        return trained(training, replace(PRESET.meta, meta_steps=steps // 4), data, arguments, start.weights)
    changes: dict[str, Any] = {"joint": {}, "dropout": {"modality_dropout": 1.0}}.get(
        training, {"modalities": training, **alone}
    )
    return trained(training, replace(PRESET.meta, meta_steps=steps, **changes), data, arguments)


def trained(
    name: str,
    meta: MetaTrainingConfig,
    data: DatasetSplits,
    arguments: argparse.Namespace,
    start: Weights | None = None,
) -> Checkpoint:
    """Train, or load what is trained."""
    record = {"algorithm": "reptile", "sets": [{**data.record, "share": 1.0}]}
    plan = TrainingRunConfig(PRESET.net_config, PRESET.recipe, meta, record)
    path = arguments.folder / f"omniglot-strokes-{name}.safetensors"
    training = TrainingRun(plan, PRESET.serve, path, torch.device("cpu"), start=start)
    if training.state.meta_step < meta.meta_steps:
        with progress(f"training {name}", meta.meta_steps, training.state.meta_step) as report:
            for step in training.run([WeightedDataset(data.train)], save_every_s=60.0):
                report(step.meta_step, f"loss {step.loss:.3f}")
    return load_checkpoint(path)


def joined(image: Checkpoint, second: Checkpoint) -> Checkpoint:
    """The image encoder of one checkpoint with the other encoder of another."""
    encoder = {name: tensor for name, tensor in image.weights.items() if name.startswith(IMAGE_PREFIX)}
    return replace(second, weights={**second.weights, **encoder})


def score_rows(
    rows: Sequence[Row],
    starts: Mapping[str, Checkpoint],
    test: ClassDataset,
    task: tuple[int, int],
    arguments: argparse.Namespace,
) -> Scores:
    """Score each row on the same episodes: row -> one accuracy per episode."""
    scores = {}
    for row in rows:
        start = starts[row.trained]
        modalities = EpisodeModalities(start.net_config.second_size, row.support, row.query)
        shape = EpisodeShape(*task, arguments.queries)
        source = EpisodeSampler(test, shape, start.net_config.image, 1.0, modalities)
        plan = EvaluationConfig(arguments.episodes)
        with progress(f"{task[1]}-shot, {row.name}", arguments.episodes, 0) as report:
            scored = []
            for accuracy in evaluate(start.build_net(), start.weights, source, start.recipe, plan):
                scored.append(accuracy)
                report(len(scored), "")
        scores[row.name] = scored
    return scores


def score_trained(
    start: Checkpoint, test: ClassDataset, task: tuple[int, int], arguments: argparse.Namespace
) -> Scores:
    """Score a net that was trained with both modalities, with both and with each alone."""
    return score_rows(rows_of("joint"), {"joint": start}, test, task, arguments)


IMAGES_OF_BACKBONE: Final = "frozen backbone; images alone"
BACKBONE_ROWS: Final[Mapping[str, tuple[Present, Present, bool]]] = {
    "frozen backbone; images and notes": ("both", "both", False),
    IMAGES_OF_BACKBONE: ("image", "image", False),
    "frozen backbone; notes alone": ("second", "second", False),
    "frozen backbone; images and notes, no notes at prediction": ("both", "image", False),
    "frozen backbone; images and notes that tell nothing": ("both", "both", True),
}
"""Row -> modalities of the support and of the queries, and whether the notes of an episode are shuffled."""


def score_backbone(
    start: Checkpoint, test: ClassDataset, task: tuple[int, int], arguments: argparse.Namespace
) -> Scores:
    """Score a frozen backbone with notes beside it. Each image is embedded once for all rows."""
    image, net = start.net_config.image, start.build_net()
    embedder = embedder_for(start, net, torch.device("cpu"))
    assert embedder is not None, "a frozen backbone"
    shape = EpisodeShape(*task, arguments.queries)
    source = EpisodeSampler(test, shape, image, 1.0, EpisodeModalities(TEXT_SIZE))
    scores: dict[str, list[float]] = {name: [] for name in BACKBONE_ROWS}
    with progress(f"{task[1]}-shot", arguments.episodes, 0) as report:
        for seed in range(arguments.episodes):
            embedded = with_embedded_images(source.task(seed), start, embedder)
            for name, (support, query, shuffled) in BACKBONE_ROWS.items():
                episode = _Given(_changed(embedded, support, query, seed if shuffled else None))
                scores[name] += evaluate(net, start.weights, episode, start.recipe, EvaluationConfig(1, seed))
            report(seed + 1, "")
    return scores


def with_embedded_images(task: Task, start: Checkpoint, embedder: Embedder) -> Task:
    """Embed the images of a task of rows of both modalities, in the views that its support gets; notes stay behind."""
    image = start.net_config.image
    pixels = image.channels * image.side**2
    images, notes, queries, asked = (
        part
        for rows in (task.support.inputs, task.query_inputs)
        for part in (rows[:, :pixels].view(-1, image.channels, image.side, image.side), rows[:, pixels:])
    )
    plain = replace(task, support=replace(task.support, inputs=images), query_inputs=queries)
    embedded = embed_task(embedder, plain, flips=start.recipe.flip_augment)
    support = embedded.support
    rows = torch.cat([support.inputs, notes.repeat(support.views, 1)], dim=1)
    return replace(
        embedded,
        support=replace(support, inputs=rows),
        query_inputs=torch.cat([embedded.query_inputs, asked], dim=1),
    )


def _changed(task: Task, support: Present, query: Present, shuffle_seed: int | None) -> Task:
    """The task with the modalities that are named; with a seed, every sample has the note of any sample."""
    own, inputs, queries = task.support, task.support.inputs, task.query_inputs
    if shuffle_seed is not None:
        generator, samples = torch.Generator().manual_seed(shuffle_seed), len(own.sample_labels)
        width = TEXT_SIZE + FLAGS
        notes = torch.cat([inputs[:samples, -width:], queries[:, -width:]])
        notes = notes[torch.randperm(len(notes), generator=generator)]
        inputs = torch.cat([inputs[:, :-width], notes[:samples].repeat(own.views, 1)], dim=1)
        queries = torch.cat([queries[:, :-width], notes[samples:]], dim=1)
    kept = replace(own, inputs=keep_only(inputs, TEXT_SIZE, support))
    return replace(task, support=kept, query_inputs=keep_only(queries, TEXT_SIZE, query))


@dataclass(frozen=True)
class _Given:
    """A source with one episode."""

    episode: Task

    def task(self, seed: int) -> Task:
        return self.episode


def tables(result: Mapping[str, Any]) -> list[str]:
    """The tables of a result."""
    return [table(part, result[part]) for part in PARTS if part in result]


def table(part: str, by_shots: Mapping[Any, Scores]) -> str:
    """Accuracies, and paired differences to the rival of each row."""
    headings = [part]
    for shots in by_shots:
        headings += [f"{shots}-shot", "difference"]
    names = list(next(iter(by_shots.values())))
    return markdown(headings, ([name, *_cells(name, by_shots)] for name in names))


def _cells(name: str, by_shots: Mapping[Any, Scores]) -> list[str]:
    cells = []
    for scores in by_shots.values():
        rival = rival_of(name, scores)
        difference = points(differences(scores[name], scores[rival]), 2) if rival in scores else ""
        cells += [percent(Score(tuple(scores[name])), 2), difference]
    return cells


def picture(by_shots: Mapping[Any, Scores]) -> bytes:
    """Plot the accuracies of a part: a PNG with a panel for each number of shots."""
    panels = {
        f"{shots}-shot": {name: {"accuracy": Score(tuple(accuracies))} for name, accuracies in scores.items()}
        for shots, scores in by_shots.items()
    }
    return plot_intervals(panels, "accuracy (%)")


def rival_of(name: str, scores: Scores) -> str:
    """The row that a row is compared with; for a net that has both modalities, the better one of those alone."""
    if name in BACKBONE_ROWS:
        return "" if name == IMAGES_OF_BACKBONE else IMAGES_OF_BACKBONE
    row = next(row for training in TRAININGS for row in (*rows_of(training), *ALONE) if row.name == name)
    if row.trained in ("image", "second") or row.rival:
        return row.rival
    return max((IMAGES, SECONDS), key=lambda rival: sum(scores.get(rival, ())))


if __name__ == "__main__":
    main()
