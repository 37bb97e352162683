"""Command-line options of scripts that score few-shot episodes, and the dataset that they select."""

from __future__ import annotations

import argparse
from pathlib import Path

from models.data.class_dataset import ClassDataset
from models.data.registry import open_dataset
from models.images.preprocessing import ImageConfig
from service.cli.train import CACHE


def add_episode_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that select episodes, with the same meaning as in ``anole evaluate``."""
    group = parser.add_argument_group("the episodes")
    group.add_argument("--data-root", type=Path, default=None, help="folder with the datasets")
    group.add_argument("--dataset", default="folder:x_sdd.zip", help="as in anole evaluate (default: %(default)s)")
    group.add_argument("--ways", type=int, default=5, help="classes per episode (default: %(default)s)")
    group.add_argument("--shots", type=int, nargs="+", default=[1, 5, 10], help="images per class (default: 1 5 10)")
    group.add_argument("--queries", type=int, default=10, help="query images per class (default: %(default)s)")
    group.add_argument("--episodes", type=_at_least_two, default=200, help="number of episodes (default: %(default)s)")
    group.add_argument("--seed", type=int, default=0, help="seed of the first episode (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def few_shot_classes(arguments: argparse.Namespace, spec: ImageConfig) -> ClassDataset:
    """Test classes of the selected dataset.

    Raises:
        DatasetUnavailable: the dataset is unknown, missing or unreadable.
    """
    return open_dataset(arguments.dataset, spec, arguments.data_root, CACHE).test


def _at_least_two(text: str) -> int:
    count = int(text)
    if count < 2:
        raise argparse.ArgumentTypeError(f"got {count}; an interval needs at least 2 episodes")
    return count
