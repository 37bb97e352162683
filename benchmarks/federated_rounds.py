"""Federated Reptile against Reptile on pooled data and against no federation: accuracy of new clinics by rounds.

    python benchmarks/federated_rounds.py --data-root FOLDER [--clients 50] [--rounds 60] [--episodes 80]
        [--rows federated pooled ...] [--cache FOLDER] [--json]

Each clinic has 16 characters of Omniglot that no other has, and a scanner of its own. New clinics take part in no
round; they adapt the start to 5 of their classes. All rows adapt to the same episodes:

* federated: every client sends the difference of one task of its own in every round;
* drop-outs: in every round, a random 30 % of the clients do not reply;
* clipped: differences of at most the clip norm;
* pooled: Reptile with as many tasks a step, of the classes of all clinics, half of the tasks from one clinic;
* alone: Reptile on the tasks of one clinic, with the same steps and a tenth of the tasks, mean of three clinics;
* private N: clipped, with the noise that all rounds together need for epsilon with N clients. For more clients than
  there are, the differences are those of the clients there are, and the noise of their mean is that of N clients.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.progress import track

from benchmarks.clinics import (
    IMAGE,
    NET,
    RECIPE,
    SERVE,
    TRAINING,
    NewClinics,
    PooledClinics,
    open_clinics,
    training_supports,
)
from benchmarks.figures import Parser, differences, machine, machine_line, markdown, percent, points, script
from models.data.class_dataset import ClassDataset
from models.data.episodes import EpisodeSampler
from models.meta.evaluation import EvaluationConfig, Score, evaluate
from models.meta.federated import Privacy, adapted_names, client_updates, federated_step, noise_multiplier_for
from models.meta.outer_loop import MetaTrainingState
from models.meta.reptile import Reptile
from models.nets import build
from models.weights import Weights

NEW_CLINICS: Final = 20
SHOTS: Final = (1, 2, 5, 10)
DROPPED: Final = 0.3
ALONE: Final = 3

Round = Callable[[Weights, int, float], Weights]
"""(start, round number from 0, step size) -> the next start."""


@dataclass(frozen=True)
class Federation:
    """Clinics that learn together.

    Attributes:
        clinics: the clients.
        rounds: number of rounds; the step size falls linearly from 1 to 0.
    """

    clinics: Sequence[ClassDataset]
    rounds: int

    def federated(self, privacy: Privacy, dropped: float, start: Weights, number: int, step_size: float) -> Weights:
        """A round of those clients that do not drop out."""
        draws = torch.rand(len(self.clinics), generator=torch.Generator().manual_seed(number))
        present = [clinic for clinic, draw in zip(self.clinics, draws.tolist(), strict=True) if draw >= dropped]
        seeds = [(number << 20) + client for client in range(len(present))]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        supports = training_supports(present, number)
        updates = client_updates(build(NET), start, supports, RECIPE, privacy, generators)
        return federated_step(start, updates, step_size)

    def central(self, sampler: EpisodeSampler, tasks: int, start: Weights, number: int, step_size: float) -> Weights:
        """A meta step of Reptile on tasks of one sampler."""
        seeds = [(number << 16) + task for task in range(tasks)]
        supports = [sampler.support(seed) for seed in seeds]
        state = Reptile().meta_step(build(NET), MetaTrainingState(start), supports, RECIPE, step_size, seeds)
        return state.start

    def starts(self, step: Round, at: Sequence[int], name: str) -> dict[int, Weights]:
        """Run the rounds and keep the starts after some of them."""
        start: Weights = build(NET, 0).start()
        kept = {0: start}
        for number in track(range(self.rounds), name, console=Console(stderr=True)):
            start = step(start, number, 1 - number / self.rounds)
            if number + 1 in at:
                kept[number + 1] = start
        return kept


def private(clients: int, noise_of: int, rounds: int, options: argparse.Namespace) -> Privacy:
    """The noise of `noise_of` clients, as shares of the clients there are."""
    multiplier = noise_multiplier_for(options.epsilon, options.delta, rounds)
    return Privacy(options.clip_norm, multiplier * clients / noise_of, clients)


def rows(federation: Federation, options: argparse.Namespace) -> dict[str, list[Round]]:
    """Row -> its rounds; of several, accuracies are averaged."""
    clinics, clients = federation.clinics, len(federation.clinics)
    pooled = EpisodeSampler(PooledClinics(clinics), TRAINING, IMAGE, within_line=0.5)
    own = [EpisodeSampler(clinic, TRAINING, IMAGE) for clinic in clinics[:ALONE]]
    plain, clipped = Privacy(), Privacy(options.clip_norm)
    noisy = {number: private(clients, number, federation.rounds, options) for number in options.private}
    return {
        "federated": [partial(federation.federated, plain, 0.0)],
        "pooled": [partial(federation.central, pooled, clients)],
        "alone": [partial(federation.central, sampler, max(1, clients // 10)) for sampler in own],
        "drop-outs": [partial(federation.federated, plain, DROPPED)],
        "clipped": [partial(federation.federated, clipped, 0.0)],
        **{f"private {number}": [partial(federation.federated, noise, 0.0)] for number, noise in noisy.items()},
    }


def accuracy(start: Weights, new: Sequence[ClassDataset], n_shot: int, episodes: int) -> tuple[float, ...]:
    """Accuracy of each episode of new clinics."""
    return tuple(evaluate(build(NET), start, NewClinics(new, n_shot), SERVE, EvaluationConfig(episodes)))


def mean_of(runs: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Average the accuracy of each episode over several starts."""
    return tuple(sum(each) / len(runs) for each in zip(*runs, strict=True))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all rows."""
    clinics = open_clinics(options.data_root, options.cache, options.clients + NEW_CLINICS)
    federation, new = Federation(clinics[: options.clients], options.rounds), clinics[options.clients :]
    at = sorted({number for number in options.at if 0 < number < options.rounds} | {options.rounds})
    found: dict[str, Any] = {"rows": {}, "shots": {}}
    for name, runs in rows(federation, options).items():
        if name not in options.rows and not (name.startswith("private") and "private" in options.rows):
            continue
        kept = [federation.starts(step, at, name) for step in runs]
        found["rows"][name] = {
            number: mean_of([accuracy(starts[number], new, 5, options.episodes) for starts in kept])
            for number in (0, *at)
        }
        if name == "federated":
            found["shots"] = {
                n_shot: {number: accuracy(kept[0][number], new, n_shot, options.episodes) for number in (0, *at)}
                for n_shot in SHOTS
            }
    start = build(NET).start()
    sizes = {name: start[name].numel() for name in adapted_names(start, RECIPE)}
    return {**found, "numbers": sum(sizes.values()), "machine": machine("none: conv4, 16 channels, untrained")}


def tables(found: dict[str, Any], options: argparse.Namespace) -> str:
    """The results as Markdown."""
    numbers = list(next(iter(found["rows"].values())))
    parts = [
        machine_line(found["machine"]),
        "",
        f"A difference has {found['numbers']} numbers: {4 * found['numbers']} bytes.",
    ]
    reference = found["rows"].get("pooled")
    lines = []
    for name, scores in found["rows"].items():
        last = numbers[-1]
        gap = points(differences(scores[last], reference[last])) if reference else ""
        lines.append([name, *(percent(Score(scores[number])) for number in numbers), gap])
    heads = [f"after {number}" for number in numbers]
    parts += ["", markdown(["5 shots, accuracy", *heads, "against pooled, points"], lines)]
    shots = [
        [f"{n_shot} shots ({5 * n_shot} labelled samples)", *(percent(Score(scores[number])) for number in numbers)]
        for n_shot, scores in found["shots"].items()
    ]
    if shots:
        parts += ["", markdown(["federated, accuracy", *heads], shots)]
    multiplier = noise_multiplier_for(options.epsilon, options.delta, options.rounds)
    budget = f"epsilon {options.epsilon} at delta {options.delta} over {options.rounds} rounds"
    parts += ["", f"{budget}: noise multiplier {multiplier:.2f}"]
    return "\n".join(parts)


@script
def main() -> None:
    """See the module."""
    parser = Parser(__doc__)
    parser.data_root("omniglot/", required=True)
    parser.option("--cache", Path("~/.cache/anole").expanduser(), "folder for decoded images")
    parser.option("--clients", 50, "number of clinics that learn together", least=ALONE)
    parser.option("--rounds", 60, "number of rounds", least=1)
    parser.option("--at", [5, 10, 20, 40], "rounds to evaluate after, beside the last one", least=1)
    parser.option("--episodes", 80, "episodes of new clinics", least=2)
    parser.option("--rows", ["federated", "pooled", "alone", "drop-outs", "clipped", "private"], "rows to run")
    parser.option("--private", [50, 1000, 10000], "numbers of clients whose noise to try", least=1)
    parser.option("--clip-norm", 1.0, "of a difference")
    parser.option("--epsilon", 8.0, "privacy loss over all rounds")
    parser.option("--delta", 1e-5, "of the privacy loss")
    parser.json()
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(options)
    print(json.dumps(found) if options.json else tables(found, options))


if __name__ == "__main__":
    main()
