"""A demonstration of federated Reptile with Flower's apps in one process: six generated clinics, a scanner each.

Run it by `make federated-demo`. It starts from an untrained net, writes `federated.safetensors` to a temporary folder,
and prints the accuracy of new clinics before and after.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from anole_federated.client_app import client_app
from anole_federated.in_process import InProcessGrid, set_task_identity
from anole_federated.server_app import run
from anole_federated.settings import Settings
from flwr.app import Context, RecordDict

from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.config import InnerLoopConfig, NetConfig
from models.data.class_dataset import ClassDataset, DatasetSubset
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.data.synthetic import Textures
from models.images.preprocessing import ImageConfig
from models.meta.evaluation import EvaluationConfig, Score, evaluate
from models.nets import build
from models.task import Task

NET = NetConfig("surface", ImageConfig(channels=1, side=32, contrast="regional"), width=32)
SERVE = InnerLoopConfig(steps=5, learning_rate=0.1, batch_size=25, clip_norm=10.0)
NEW_CLINICS = range(40, 60)


def clinic(number: int, image: ImageConfig) -> ClassDataset:
    """Eight classes of one generated product line, under its own camera."""
    lines = Textures(image.side, image.channels, seed=5, lines=NEW_CLINICS.stop)
    first = number * lines.classes_per_line
    return DatasetSubset(lines, range(first, first + lines.classes_per_line), f"clinic {number}")


def samples_of(context: Context, settings: Settings, image: ImageConfig) -> ClassDataset:
    """The samples of a simulated device."""
    return clinic(int(context.node_config["partition-id"]), image)


class NewClinics:
    """Episodes of clinics that take part in no round: 5-way, 5-shot, 10 queries a class."""

    def task(self, seed: int) -> Task:
        """Return the episode of a seed."""
        dataset = clinic(NEW_CLINICS[seed % len(NEW_CLINICS)], NET.image)
        return EpisodeSampler(dataset, EpisodeShape(5, 5, 10), NET.image).task(seed)


def accuracy(checkpoint: Checkpoint) -> Score:
    """Accuracy of new clinics that adapt a start."""
    episodes = evaluate(checkpoint.build_net(), checkpoint.weights, NewClinics(), SERVE, EvaluationConfig(20))
    return Score(tuple(episodes))


def main() -> None:
    """Run the rounds and print what they changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=6, help="number of clinics (6)")
    parser.add_argument("--rounds", type=int, default=20, help="number of rounds (20)")
    parser.add_argument("--noise-multiplier", type=float, default=0.0, help="of the noise in the sum (0)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start, out = Path(folder) / "start.safetensors", Path(folder) / "federated.safetensors"
        untrained = Checkpoint("start", NET, SERVE, build(NET, 0).start())
        save_checkpoint(untrained, start)
        settings = {
            "checkpoint": str(start),
            "out": str(out),
            "rounds": options.rounds,
            "noise-multiplier": options.noise_multiplier,
            "clip-norm": 5.0,
            "cohort": max(2, options.clients // 2),
        }
        set_task_identity()
        grid = InProcessGrid(client_app(samples_of), options.clients, settings)
        context = Context(1, 0, {}, RecordDict(), {})
        run(grid, context, Settings.of(context, settings))
        before, after = accuracy(untrained), accuracy(load_checkpoint(out))
    print(f"bytes sent by a client in a round: {grid.sent_bytes // options.clients // options.rounds}")
    print(f"5-way 5-shot accuracy of new clinics: {100 * before.mean:.1f} % before, {100 * after.mean:.1f} % after")


if __name__ == "__main__":
    main()
