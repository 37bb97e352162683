"""Bayesian Reptile: the start is a distribution over weights, whose means and variances are meta-trained.

The weights that have a spread (`models.adaptation.gaussian_weights`) are Gaussian. The start is the prior. The inner
loop moves a task's means and variances to its posterior: each step descends the cross-entropy of weights that are drawn
by reparameterisation, plus the divergence from the prior over the number of support images (Blundell et al. 2015,
arXiv:1505.05424, for one task; Ravi & Beatson 2019, "Amortized Bayesian meta-learning", for many).

The outer step moves the means as Reptile does. Moving the variances in the same way would make them ever smaller: the
tasks' cross-entropy is lowest without noise, and the prior would follow. The prior that is closest to the posteriors of
the tasks has the variance mean(posterior variance + (posterior mean - prior mean)^2), as in empirical Bayes (Robbins
1956; Grant et al. 2018, arXiv:1801.08930, for meta-learning): how unsure tasks are, and how much they differ. The
standard deviations move towards that.

The head's posterior is known in closed form but for one number, the covariance within the classes relative to what the
head implies (`models.nets.head_posterior`). The outer step measures it: a task's head starts from some of its images,
the anchors, and the others show how far the class means were off.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models import weights as weight_ops
from models.adaptation.gaussian_weights import SUFFIX, gaussian_names, spread_weights
from models.adaptation.inner_loop import InnerLoopResult, collect_statistics
from models.meta.reptile import Reptile
from models.nets import heads
from models.nets.base import Net
from models.nets.head_posterior import LOG_SD, relative_spread
from models.weights import Weights

SPREAD_PATTERNS = ("*.scale", "*.shift")
"""Weights that are Gaussian: every layer's scales and shifts."""


def bayesian_start(start: Weights) -> dict[str, Tensor]:
    """Return the start with a spread for its scales and shifts, and for the means of a head's classes."""
    spread = {} if heads.WEIGHT in start else {LOG_SD: torch.zeros(())}  # a linear head stands for no means
    return {**spread_weights(start, SPREAD_PATTERNS), **spread}


@dataclass(frozen=True)
class BayesianReptile(Reptile):
    """Bayesian Reptile's meta step; see the module."""

    def target(self, net: Net, start: Weights, adapted: InnerLoopResult) -> dict[str, Tensor]:
        """The mean of the adapted weights; for spreads, those that fit the tasks' posteriors and errors best."""
        target = super().target(net, start, adapted)
        for name in gaussian_names(start):
            deviations = adapted.weights[name] - start[name]  # (tasks, ...)
            variances = (2 * adapted.weights[name + SUFFIX]).exp() + deviations.square()
            target[name + SUFFIX] = 0.5 * weight_ops.task_mean({name: variances})[name].log()
        measured = [_relative_spread(net, adapted, task) for task in range(len(adapted.supports))]
        spreads = [spread for spread in measured if spread is not None]
        if LOG_SD in start and spreads:
            target[LOG_SD] = 0.5 * torch.stack(spreads).mean().log().to(start[LOG_SD].device)
        return target


def _relative_spread(net: Net, adapted: InnerLoopResult, task: int) -> Tensor | None:
    """See `relative_spread`; None for a task whose head starts from all of its images."""
    support = adapted.supports[task]
    if support.anchors is None or len(support.anchors) == len(support):
        return None
    weights = adapted.task_weights(task, support.n_way)
    (collected,) = collect_statistics(net, weights, [support.inputs])
    is_anchor = torch.zeros(len(support), dtype=torch.bool)
    is_anchor[support.anchors.cpu()] = True
    features, labels = collected.features[0].cpu(), support.labels.cpu()
    known, others = (
        heads.class_means(features[None, rows], labels[None, rows], support.n_way)[0]
        for rows in (is_anchor, ~is_anchor)
    )
    anchors = int(is_anchor.sum()) // support.n_way
    head = {name: weights[name][0].cpu() for name in (heads.WEIGHT, heads.BIAS)}
    return relative_spread(head, known, others, (anchors, len(support) // support.n_way - anchors))
