"""Suspects: samples whose label looks wrong, by features that have not learned any label by heart.

It knows features and labels; which net they come from is the examination's part.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.inference.predict import class_means_gain
from models.nets import heads
from models.validation.calibration import fit_temperature

SUSPECT_RATIO = 0.5
"""A label is suspect if the likeliest class is more than twice as probable as it."""


@dataclass(frozen=True)
class Suspect:
    """A sample whose label looks wrong.

    Attributes:
        sample: its place in the support.
        looks_like: class index.
        confidence: probability of that class.
    """

    sample: int
    looks_like: int
    confidence: float


def find_label_issues(features: Tensor, labels: Tensor, groups: Tensor, scale: float) -> tuple[Suspect, ...]:
    """Samples that are nearer to another class's mean than to their own's, with confidence, themselves left out.

    Meta-trained features that were never adapted to these labels have not learned any wrong one by heart.

    Args:
        features: (samples, features), under the meta-trained weights.
        labels: int64 (samples,).
        groups: int64 (samples,), samples of one group are left out together.
        scale: of a prototype head.
    """
    scores = _left_out_scores(features, labels, groups, scale)  # (samples, n_way)
    rows = scores.gather(1, labels[:, None])[:, 0].isfinite().nonzero().flatten()
    if not len(rows):
        return ()
    own = labels[rows]
    probabilities = (scores[rows] / fit_temperature(scores[rows].clamp(min=-1e4), own)).softmax(-1)
    confidence, likeliest = probabilities.max(-1)
    ratio = probabilities.gather(1, own[:, None])[:, 0] / confidence
    suspected = (ratio < SUSPECT_RATIO).nonzero().flatten()
    order = suspected[ratio[suspected].argsort(stable=True)]
    return tuple(Suspect(int(rows[at]), int(likeliest[at]), float(confidence[at])) for at in order)


def _left_out_scores(features: Tensor, labels: Tensor, groups: Tensor, scale: float) -> Tensor:
    """Prototype scores of each sample by class means without its group: (samples, n_way), -inf for an empty class."""
    n_way = int(labels.max()) + 1
    means = heads.class_means(features[None], labels[None], n_way)
    gain = class_means_gain(means[0])
    scaled = features * gain
    member = F.one_hot(labels, n_way).to(features.dtype)  # (samples, n_way)
    same = (groups[:, None] == groups).to(features.dtype)  # (samples, samples)
    counts = member.sum(0) - same @ member  # (samples, n_way), of a class without the sample's group
    totals = member.T @ scaled  # (n_way, features)
    scores = torch.empty_like(counts)
    for row in range(len(features)):
        mates = same[row].bool()
        left = totals - member[mates].T @ scaled[mates]
        prototypes = left / counts[row].clamp(min=1)[:, None]
        scores[row] = -scale * (scaled[row] - prototypes).square().sum(-1)
    return scores.masked_fill(counts < 1, float("-inf"))
