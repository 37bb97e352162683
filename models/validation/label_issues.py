"""Label issues: samples whose label is probably wrong, found with features that were not adapted to the labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.nets import heads
from models.validation.calibration import fit_temperature

MAX_LABEL_RATIO = 0.5
"""A label is an issue if its probability is less than this fraction of the predicted class's."""


@dataclass(frozen=True, slots=True)
class LabelIssue:
    """A sample whose label is probably wrong.

    Attributes:
        sample: index in the support.
        predicted: index of the class that it looks like.
        confidence: probability of that class.
    """

    sample: int
    predicted: int
    confidence: float


def find_label_issues(features: Tensor, labels: Tensor, groups: Tensor, scale: float) -> tuple[LabelIssue, ...]:
    """Find samples that are much closer to the mean of another class than to that of their own.

    Class means leave out the sample and its duplicates. Features of the meta-trained start have not been fitted to any
    wrong label.

    Args:
        features: (samples, features), under the meta-trained weights.
        labels: int64 (samples,).
        groups: int64 (samples,); samples of a group are duplicates and left out together.
        scale: sharpness of the prototype head.

    Returns:
        The issues, most likely first.
    """
    logits = _leave_one_out_logits(features, labels, groups, scale)  # (samples, n_way)
    rows = logits.gather(1, labels[:, None])[:, 0].isfinite().nonzero().flatten()
    if not len(rows):
        return ()
    given = labels[rows]
    probabilities = (logits[rows] / fit_temperature(logits[rows].clamp(min=-1e4), given)).softmax(-1)
    confidence, predicted = probabilities.max(-1)
    ratio = probabilities.gather(1, given[:, None])[:, 0] / confidence
    issues = (ratio < MAX_LABEL_RATIO).nonzero().flatten()
    order = issues[ratio[issues].argsort(stable=True)]
    return tuple(LabelIssue(int(rows[row]), int(predicted[row]), float(confidence[row])) for row in order)


def _leave_one_out_logits(features: Tensor, labels: Tensor, groups: Tensor, scale: float) -> Tensor:
    """Prototype logits of each sample from class means without its group: (samples, n_way), -inf for empty classes."""
    n_way = int(labels.max()) + 1
    scaled = features * heads.class_means_gain(heads.class_means(features[None], labels[None], n_way)[0])
    member = F.one_hot(labels, n_way).to(features.dtype)  # (samples, n_way)
    same_group = (groups[:, None] == groups).to(features.dtype)  # (samples, samples)
    counts = member.sum(0) - same_group @ member  # (samples, n_way), class sizes without the sample's group
    totals = member.T @ scaled  # (n_way, features)
    logits = torch.empty_like(counts)
    for row in range(len(features)):
        group = same_group[row].bool()
        remaining = totals - member[group].T @ scaled[group]
        prototypes = remaining / counts[row].clamp(min=1)[:, None]
        logits[row] = -scale * (scaled[row] - prototypes).square().sum(-1)
    return logits.masked_fill(counts < 1, float("-inf"))
