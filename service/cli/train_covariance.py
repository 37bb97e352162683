"""``anole train --algorithm covariance``: learn how the features of a frozen backbone vary within classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import torch
import typer
from torch import Tensor

from models.adaptation.executor import FairExecutor
from models.atomic_files import write_atomically
from models.checkpoint import load_checkpoint, save_checkpoint
from models.data.class_dataset import ClassDataset
from models.data.registry import open_dataset
from models.images.preprocessing import ImageConfig
from models.inference.embedding import Embedder, embed_images, embedder_for
from models.meta.covariance_prior import CovarianceTraining, EmbeddedDataset, learn_covariance_prior
from models.nets import BackboneNet
from models.task import FLIPS
from service.cli.console import notices, output, plain, print_json, progress
from service.cli.files import require_writable
from service.settings import disable_onnxruntime_telemetry, load_settings

CACHE: Final = Path("data/cache")
MAX_IMAGES_PER_CLASS: Final = 60
"""More change a class's covariance little and take longer to embed."""


def train_covariance(
    start: str,
    names: Sequence[str],
    out: Path,
    training: CovarianceTraining,
    data_root: Path | None,
    threads: int,
    *,
    as_json: bool,
) -> None:
    """Embed the datasets, learn the prior, and write the start with it as a new checkpoint.

    Args:
        start: name or path of a checkpoint with a frozen backbone.
        names: of the datasets.
        out: the checkpoint to write; its ONNX graph is that of the start.
        training: settings.
        data_root: folder with downloaded datasets, or None.
        threads: threads that embed.
        as_json: print JSON instead of a line.
    """
    disable_onnxruntime_telemetry()
    torch.set_num_threads(1)
    settings = load_settings()
    require_writable(out)
    checkpoint = load_checkpoint(start, settings.allow_factory)
    net = checkpoint.build_net()
    embedder = embedder_for(checkpoint, net, torch.device("cpu"))
    if not isinstance(net, BackboneNet) or embedder is None:
        raise typer.BadParameter(f"{start} has no frozen backbone; --algorithm covariance needs one")
    square = replace(checkpoint.net_config.image, fit="stretch")
    root = data_root or settings.data_root
    datasets, records = [], []
    for name in names:
        opened = open_dataset(name, square, root, CACHE)
        datasets.append(_embedded(name, opened.train, embedder, square, threads))
        records.append(dict(opened.record))
    prior = learn_covariance_prior(
        net, datasets, training, lambda name: notices().print(plain(f"covariance of {name}"))
    )
    prior = replace(prior, directions=prior.directions.half())
    record = {
        **checkpoint.training,
        "algorithm": "covariance",
        "sets": records,
        "covariance": {**asdict(training), "images_per_class": MAX_IMAGES_PER_CLASS},
    }
    learned = replace(checkpoint, name=out.stem, prior=prior, training=record)
    save_checkpoint(learned, out)
    if checkpoint.onnx_graph is not None:
        write_atomically(out.with_suffix(".onnx"), checkpoint.onnx_graph)
    if as_json:
        print_json({"checkpoint": str(out), "digest": learned.digest})
    else:
        output().print(plain(f"{out}: digest {learned.digest[:12]}"))


def _embedded(
    name: str, dataset: ClassDataset, embedder: Embedder, config: ImageConfig, threads: int
) -> EmbeddedDataset:
    executor, classes = FairExecutor(threads), []
    try:
        with progress(f"embedding {name}", len(dataset)) as report:
            for index in range(len(dataset)):
                classes.append(_views(dataset.images(index)[:MAX_IMAGES_PER_CLASS], embedder, config, executor))
                report(index + 1, "")
    finally:
        executor.close()
    return EmbeddedDataset(name, classes)


def _views(images: Tensor, embedder: Embedder, config: ImageConfig, executor: FairExecutor) -> Tensor:
    """Features of every image and its mirror images: (views, images, features)."""
    rows = embed_images(embedder, list(images), config, views=FLIPS, executor=executor)
    return rows.view(-1, len(images), rows.shape[-1])
