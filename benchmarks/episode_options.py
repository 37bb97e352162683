"""Command-line options of scripts that score few-shot episodes, and the dataset that they select."""

from __future__ import annotations

import argparse
from pathlib import Path

from models.data.class_dataset import ClassDataset
from models.data.registry import open_dataset
from models.images.preprocessing import ImageConfig
from service.cli.train import CACHE


def add_episode_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which episodes; they mean what they mean to ``anole evaluate``."""
    group = parser.add_argument_group("the episodes")
    group.add_argument("--data-root", type=Path, default=None, help="folder with the data sets")
    group.add_argument("--dataset", default="folder:x_sdd.zip", help="as anole evaluate has it (default: %(default)s)")
    group.add_argument("--ways", type=int, default=5, help="classes an episode (default: %(default)s)")
    group.add_argument("--shots", type=int, nargs="+", default=[1, 5, 10], help="support images a class; 1 5 10")
    group.add_argument("--queries", type=int, default=10, help="query images a class (default: %(default)s)")
    group.add_argument("--episodes", type=_at_least_two, default=200, help="how many (default: %(default)s)")
    group.add_argument("--seed", type=int, default=0, help="of the first episode (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def few_shot_classes(arguments: argparse.Namespace, spec: ImageConfig) -> ClassDataset:
    """The classes that episodes are drawn from, at the spec's channels and side.

    Raises:
        DatasetUnavailable: unknown, not there, or not to be read.
    """
    return open_dataset(arguments.dataset, spec, arguments.data_root, CACHE).test


def _at_least_two(text: str) -> int:
    count = int(text)
    if count < 2:
        raise argparse.ArgumentTypeError(f"{count} came; an interval needs at least 2 episodes")
    return count
