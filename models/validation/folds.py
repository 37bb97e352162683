"""Cross-validation folds that never divide one physical part, or one picture that was sent twice.

A group is a set of samples that show one part: those with the same part name, and those with the same pixels. All
samples of a group are in the same fold. Looks do not decide: under a fixed camera, different parts look alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TRAIN_ONLY = -1
"""Fold of a sample that is never held out, because its class would have no other sample to train on."""

_SAMPLED_ROWS, _SAMPLED_COLUMNS = 16, 4
"""Every 16th row and every 4th column are compared before the whole image."""


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


def group_samples(images: Sequence[Tensor], parts: Sequence[str | None], *, flips: bool = False) -> Tensor:
    """Group samples that show one physical part.

    Args:
        images: canonical images, uint8 (1 or 3, height, width) each, of any sizes.
        parts: the name of the part that each image shows, or None if it is not known.
        flips: whether mirror images count as one picture, for recipes that augment with them.

    Returns:
        int64 (samples,), the group of each sample, numbered from 0. Groups are transitive: two parts that share a
        picture are one group.
    """
    root = list(range(len(images)))

    def find(sample: int) -> int:
        while root[sample] != sample:
            root[sample] = root[root[sample]]
            sample = root[sample]
        return sample

    for first, other in [*_same_parts(parts), *_same_pixels(images, flips=flips)]:
        root[find(other)] = find(first)
    roots = torch.tensor([find(sample) for sample in range(len(images))])
    numbered: Tensor = torch.unique(roots, return_inverse=True)[1]
    return numbered


def _same_parts(parts: Sequence[str | None]) -> Iterator[tuple[int, int]]:
    return _pairs([(index, part) for index, part in enumerate(parts) if part is not None])


def _same_pixels(images: Sequence[Tensor], *, flips: bool) -> Iterator[tuple[int, int]]:
    """Pairs of images with the same pixels. A few pixels of each decide which images are compared as a whole."""
    views = [_views(image.numpy(), flips=flips) for image in images]
    sampled = [min(view[:, ::_SAMPLED_ROWS, ::_SAMPLED_COLUMNS].tobytes() for view in each) for each in views]
    similar: defaultdict[Hashable, list[int]] = defaultdict(list)
    for index, key in enumerate(sampled):
        similar[key].append(index)
    candidates = [index for indices in similar.values() if len(indices) > 1 for index in indices]
    return _pairs([(index, min((view.shape, view.tobytes()) for view in views[index])) for index in candidates])


def _views(pixels: NDArray[np.uint8], *, flips: bool) -> list[NDArray[np.uint8]]:
    """The image, with `flips` also its mirror images; none is copied."""
    if not flips:
        return [pixels]
    return [pixels, pixels[:, :, ::-1], pixels[:, ::-1], pixels[:, ::-1, ::-1]]


def _pairs(keyed: Sequence[tuple[int, Hashable]]) -> Iterator[tuple[int, int]]:
    """Pair each index with the first one of the same key."""
    first: dict[Hashable, int] = {}
    for index, key in keyed:
        yield first.setdefault(key, index), index


def make_folds(labels: Tensor, groups: Tensor, max_folds: int, generator: torch.Generator) -> Folds:
    """Assign groups to stratified folds, in which every class keeps a sample to train on.

    With at most `max_folds` groups, each fold holds out one group (leave-one-out). A group that is all of its class is
    never held out.

    Args:
        labels: int64 (samples,), class indices.
        groups: int64 (samples,), from `group_samples`.
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
    _keep_every_class(test_fold, labels, groups, count)
    return _renumber(test_fold, groups)


def _groups_by_class(labels: Tensor, groups: Tensor) -> dict[int, list[int]]:
    """Groups of each class, in order; a group with several labels belongs to its most frequent one."""
    members: dict[int, list[int]] = {label: [] for label in torch.unique(labels).tolist()}
    for group in torch.unique(groups).tolist():
        members[int(labels[groups == group].mode().values)].append(group)
    return members


def _keep_every_class(test_fold: Tensor, labels: Tensor, groups: Tensor, count: int) -> None:
    """Make groups train-only, in place, where a fold would hold out a whole class."""
    for fold in range(count):
        trained = set(labels[test_fold != fold].tolist())
        for label in set(labels.tolist()) - trained:
            test_fold[torch.isin(groups, groups[labels == label])] = TRAIN_ONLY


def _renumber(test_fold: Tensor, groups: Tensor) -> Folds:
    """Number the folds that hold out any sample from 0."""
    used = [fold for fold in torch.unique(test_fold).tolist() if fold != TRAIN_ONLY]
    renumbered = torch.full_like(test_fold, TRAIN_ONLY)
    for index, fold in enumerate(used):
        renumbered[test_fold == fold] = index
    return Folds(renumbered, len(used), groups)
