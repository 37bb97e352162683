"""Cross-validation folds that never separate near-duplicates of one image.

A group is a set of samples that show one image: the same file, compressed again, resized, brightened or shifted a
little. All samples of a group are in the same fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TRAIN_ONLY = -1
"""Fold of a sample that is never held out, because its class would have no other sample to train on."""

DUPLICATE_CORRELATION = 0.88
"""Thumbnail correlation from which two images count as duplicates.

On five datasets, different images of one class reached at most 0.85. Copies compressed to JPEG quality 50, resized to
0.7, brightened, or with noise added reached at least 0.91. This was an informal trial.
"""

_SIDE = 32
_NEIGHBOURHOOD = 9
_FLIPS: tuple[tuple[int, ...], ...] = ((), (2,), (1,), (1, 2))
"""Dimensions of (samples, height, width) to flip."""

_LUMA = (0.299, 0.587, 0.114)
_FLAT = 0.25
"""Deviation, in grey levels of 255, below which an image counts as blank."""


@dataclass(frozen=True)
class Folds:
    """Assignment of samples to folds.

    Attributes:
        test_fold: int64 (samples,), the fold that holds a sample out, or `TRAIN_ONLY` (as scikit-learn's
            `PredefinedSplit`).
        count: number of folds, 0 if no sample can be held out.
        groups: int64 (samples,), equal for samples of one group.
    """

    test_fold: Tensor
    count: int
    groups: Tensor

    def test_mask(self, fold: int) -> Tensor:
        """Bool (samples,), True for the samples that `fold` holds out."""
        return self.test_fold == fold


def group_duplicates(images: Sequence[Tensor], *, flips: bool = False) -> Tensor:
    """Group near-duplicate images.

    Args:
        images: canonical images, uint8 (1 or 3, height, width) each, of any sizes.
        flips: whether mirror images count as duplicates, for recipes that augment with them.

    Returns:
        int64 (samples,), the group of each image. Groups are transitive.
    """
    correlation = thumbnail_correlation(images, flips=flips)
    groups = torch.arange(len(images))
    duplicates = (correlation >= DUPLICATE_CORRELATION).triu(1).nonzero()
    for first, second in duplicates.tolist():
        groups[groups == groups[second].item()] = groups[first].item()
    numbered: Tensor = torch.unique(groups, return_inverse=True)[1]
    return numbered


def thumbnail_correlation(images: Sequence[Tensor], *, flips: bool = False) -> Tensor:
    """Correlation of the images' thumbnails; with `flips`, the maximum over mirror images.

    A thumbnail is grey, 32 pixels wide, minus its local mean, so brightness and lighting do not make images similar.
    Blank images correlate with each other.

    Returns:
        float32 (samples, samples), at most 1.
    """
    thumbnails = torch.stack([_thumbnail(image) for image in images])  # (samples, side, side)
    flat = thumbnails.flatten(1)
    floor = _FLAT**2 * _SIDE**2
    energy = flat.square().sum(1) + floor  # (samples,)
    views = [thumbnails.flip(dims).flatten(1) for dims in (_FLIPS if flips else _FLIPS[:1])]
    products = torch.stack([flat @ view.T for view in views]).amax(0) + floor
    return products / (energy[:, None] * energy).sqrt()


def make_folds(labels: Tensor, groups: Tensor, max_folds: int, generator: torch.Generator) -> Folds:
    """Assign groups to stratified folds, in which every class keeps a sample to train on.

    With at most `max_folds` groups, each fold holds out one group (leave-one-out). A group that is all of its class is
    never held out.

    Args:
        labels: int64 (samples,), class indices.
        groups: int64 (samples,), from `group_duplicates`.
        max_folds: maximum number of folds, from 2.
        generator: shuffles the groups of a class.
    """
    test_fold = torch.full_like(labels, TRAIN_ONLY)
    splittable = [members for members in _groups_by_class(labels, groups).values() if len(members) > 1]
    count = min(max_folds, sum(len(members) for members in splittable))
    assigned = 0
    for members in splittable:
        for index in torch.randperm(len(members), generator=generator).tolist():
            test_fold[groups == members[index]] = assigned % count
            assigned += 1
    _keep_every_class(test_fold, labels, count)
    return _renumber(test_fold, groups)


def _groups_by_class(labels: Tensor, groups: Tensor) -> dict[int, list[int]]:
    """Groups of each class, in order; a group with several labels belongs to its most frequent one."""
    members: dict[int, list[int]] = {label: [] for label in torch.unique(labels).tolist()}
    for group in torch.unique(groups).tolist():
        members[int(labels[groups == group].mode().values)].append(group)
    return members


def _keep_every_class(test_fold: Tensor, labels: Tensor, count: int) -> None:
    """Make samples train-only, in place, where a fold would hold out a whole class."""
    for fold in range(count):
        trained = set(labels[test_fold != fold].tolist())
        for label in set(labels.tolist()) - trained:
            test_fold[(test_fold == fold) & (labels == label)] = TRAIN_ONLY


def _renumber(test_fold: Tensor, groups: Tensor) -> Folds:
    """Number the folds that hold out any sample from 0."""
    used = [fold for fold in torch.unique(test_fold).tolist() if fold != TRAIN_ONLY]
    renumbered = torch.full_like(test_fold, TRAIN_ONLY)
    for index, fold in enumerate(used):
        renumbered[test_fold == fold] = index
    return Folds(renumbered, len(used), groups)


def _thumbnail(image: Tensor) -> Tensor:
    """Grey levels minus their local mean: float32 (side, side)."""
    values = image.to(torch.float32)
    if values.shape[0] == 3:
        values = (torch.tensor(_LUMA)[:, None, None] * values).sum(0, keepdim=True)
    small = F.interpolate(values[None], (_SIDE, _SIDE), mode="bilinear", align_corners=False, antialias=True)
    edge = _NEIGHBOURHOOD // 2
    around = F.avg_pool2d(F.pad(small, [edge] * 4, mode="replicate"), _NEIGHBOURHOOD, stride=1)
    return (small - around)[0, 0]
