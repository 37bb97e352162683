"""Meta-training of a covariance prior: how the features of a frozen backbone vary within the classes of many tasks.

The mean covariance over tasks of the within-class deviations of their queries, in the features as an adaptation sees
them, is kept in its largest directions. Where a backbone is frozen and the head is in closed form, this is what there
is to learn across tasks (an empirical Bayes prior, as in Efron & Morris 1973).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.adaptation.inner_loop import collect_statistics
from models.errors import InvalidTask
from models.nets import BackboneNet, call_net
from models.nets.backbone import CovariancePrior

_OVERSAMPLING = 30
_POWER_ITERATIONS = 3


@dataclass(frozen=True)
class CovarianceTraining:
    """Settings of the training.

    Attributes:
        tasks: tasks per dataset.
        n_way: most classes of a task.
        n_shots: support images per class; the tasks take turns.
        n_query: query images per class.
        rank: directions to keep.
        weight: of the learned covariance against that of a support.
        largest: most variance of a direction; the typical variance of a feature is 1.
        ridge: see `CovariancePrior`.
        seed: of the draws.
    """

    tasks: int = 32
    n_way: int = 5
    n_shots: tuple[int, ...] = (1, 2, 5, 10)
    n_query: int = 10
    rank: int = 64
    weight: float = 0.3
    largest: float = 15.0
    ridge: float = 4.0
    seed: int = 0


@dataclass(frozen=True)
class EmbeddedDataset:
    """The features of a dataset.

    Attributes:
        name: of the dataset.
        classes: float32 (views, images, features) per class.
    """

    name: str
    classes: Sequence[Tensor]


@dataclass(frozen=True)
class _Drawn:
    """Inputs of one task: support (views * way * shots, features), queries (way, queries, features)."""

    support: Tensor
    queries: Tensor


def learn_covariance_prior(
    net: BackboneNet,
    datasets: Sequence[EmbeddedDataset],
    training: CovarianceTraining,
    on_dataset: Callable[[str], None] = lambda _name: None,
) -> CovariancePrior:
    """Learn a prior from the classes of some datasets, each of which counts the same.

    Args:
        net: the net; a prior that it has is not used.
        datasets: what to learn from.
        training: settings.
        on_dataset: called with the name of each dataset before its covariance is measured.

    Raises:
        InvalidTask: a dataset has fewer than two classes with enough images.
    """
    drawn = {dataset.name: _draw_tasks(dataset, training) for dataset in datasets}
    log_variance = torch.stack([_mean_log_variance(tasks) for tasks in drawn.values()]).mean(0)
    plain = CovariancePrior(log_variance.exp(), torch.zeros(0, net.feature_count), torch.tensor(training.ridge))
    tuned = copy.deepcopy(net)
    tuned.use_prior(plain)
    covariance = torch.zeros(net.feature_count, net.feature_count)
    for name, tasks in drawn.items():
        on_dataset(name)
        covariance += _within_class_covariance(tuned, tasks) / len(drawn)
    return replace(plain, directions=_directions(covariance, training))


def _draw_tasks(dataset: EmbeddedDataset, training: CovarianceTraining) -> list[_Drawn]:
    generator = torch.Generator().manual_seed(training.seed)
    tasks = []
    for number in range(training.tasks):
        shots = training.n_shots[number % len(training.n_shots)]
        large = [images for images in dataset.classes if images.shape[1] > shots + 1]
        if len(large) < 2:
            raise InvalidTask(
                f"{dataset.name} has {len(large)} classes with more than {shots + 1} images; at least 2 are needed"
            )
        chosen = torch.randperm(len(large), generator=generator)[: training.n_way].tolist()
        queries = min(training.n_query, *(large[index].shape[1] - shots for index in chosen))
        picked = [large[index][:, torch.randperm(large[index].shape[1], generator=generator)] for index in chosen]
        support = torch.stack([images[:, :shots] for images in picked], 1)  # (views, way, shots, features)
        query = torch.stack([images[0, shots : shots + queries] for images in picked])  # (way, queries, features)
        tasks.append(_Drawn(support.flatten(0, 2), query))
    return tasks


def _mean_log_variance(tasks: Sequence[_Drawn]) -> Tensor:
    """Mean over tasks of the log variance of each feature over the support: (features,)."""
    logs = [torch.log(task.support.var(0, correction=0) + 1e-8) for task in tasks if len(task.support) >= 20]
    return torch.stack(logs).mean(0)


def _within_class_covariance(net: BackboneNet, tasks: Sequence[_Drawn]) -> Tensor:
    """Covariance of the queries around their class means, in the features of their task: (features, features)."""
    deviations = []
    for task in tasks:
        (collected,) = collect_statistics(net, {}, [task.support])
        way, count, _ = task.queries.shape
        features = call_net(net, {}, task.queries.flatten(0, 1)[None], collected.statistics)[0].view(way, count, -1)
        deviations.append((features - features.mean(1, keepdim=True)).flatten(0, 1) * (count / (count - 1)) ** 0.5)
    rows = torch.cat(deviations)
    return rows.T @ rows / len(rows)


def _directions(covariance: Tensor, training: CovarianceTraining) -> Tensor:
    """The largest directions of a covariance beyond its mean elsewhere, (rank, features), scaled by their deviation.

    By subspace iteration (Halko et al. 2011, algorithm 4.4).
    """
    features, rank = len(covariance), min(training.rank, len(covariance))
    generator = torch.Generator().manual_seed(training.seed)
    basis = torch.randn(features, min(rank + _OVERSAMPLING, features), generator=generator)
    for _ in range(_POWER_ITERATIONS):
        basis = torch.linalg.qr(covariance @ basis).Q
    values, vectors = torch.linalg.eigh(basis.T @ covariance @ basis)
    values, vectors = values.flip(0)[:rank], (basis @ vectors.flip(1))[:, :rank]  # (rank,), (features, rank)
    rest = (covariance.trace() - values.sum()) / max(1, features - rank)
    excess = (values.clamp(max=training.largest) - rest).clamp(min=0)
    directions: Tensor = (training.weight * excess).sqrt() * vectors
    return directions.T.contiguous()
