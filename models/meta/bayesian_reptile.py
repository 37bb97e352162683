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
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from models import weights as weight_ops
from models.adaptation.gaussian_weights import SUFFIX, gaussian_names
from models.adaptation.inner_loop import InnerLoopResult
from models.meta.reptile import Reptile
from models.weights import Weights

SPREAD_PATTERNS = ("*.scale", "*.shift")
"""Weights that `anole train --algorithm bayesian-reptile` makes Gaussian: every layer's scales and shifts."""


@dataclass(frozen=True)
class BayesianReptile(Reptile):
    """Bayesian Reptile's meta step; see the module."""

    def target(self, start: Weights, adapted: InnerLoopResult) -> dict[str, Tensor]:
        """The mean of the adapted weights; for spreads, that of the prior closest to the tasks' posteriors."""
        target = super().target(start, adapted)
        for name in gaussian_names(start):
            deviations = adapted.weights[name] - start[name]  # (tasks, ...)
            variances = (2 * adapted.weights[name + SUFFIX]).exp() + deviations.square()
            target[name + SUFFIX] = 0.5 * weight_ops.task_mean({name: variances})[name].log()
        return target
