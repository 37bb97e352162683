"""Classes whose images are so alike that an accuracy estimate from them may be too high for new parts."""

from __future__ import annotations

import torch
from torch import Tensor

ALIKE = 0.42
"""Distance to the nearest image of the class, relative to images of other classes, from which a class is alike.

With the features of `efficientnet-lite0`, pictures that repeat each part had 0.19 to 0.40 if they differ by noise, a
shift of 4 in 128 pixels or a turn by 10 degrees. Different parts under a fixed camera had 0.54 to 0.74, and seven kinds
of steel defects 0.40 to 0.75. Hand-held pictures of one part, at 0.57, are not found. This was an informal trial.
"""

_FEWEST_GROUPS = 3
_MOST_FEATURES = 256


def alike_classes(features: Tensor, labels: Tensor, groups: Tensor) -> tuple[int, ...]:
    """Find classes whose images nearly repeat each other.

    For each image of a class, the distance to the nearest image of the class in another group is compared with the
    median distance to the other classes. A class is alike if the median over its images is below `ALIKE`.

    Args:
        features: (samples, features). Of many features, evenly spaced ones are used.
        labels: int64 (samples,), class indices; at least two classes.
        groups: int64 (samples,), see `folds.group_samples`.
    """
    used = features[:, :: max(1, features.shape[1] // _MOST_FEATURES)]
    return tuple(label for label in torch.unique(labels).tolist() if _ratio(used, labels == label, groups) < ALIKE)


def _ratio(features: Tensor, member: Tensor, groups: Tensor) -> float:
    own, group = features[member], groups[member]
    if len(torch.unique(group)) < _FEWEST_GROUPS:
        return 1.0
    within = torch.cdist(own, own).masked_fill(group[:, None] == group, float("inf"))
    between = torch.cdist(own, features[~member])
    return float(within.amin(1).median() / between.median().clamp(min=torch.finfo(features.dtype).tiny))
