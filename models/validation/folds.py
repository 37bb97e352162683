"""Folds: which samples are left out together, so that none is judged by a net that has seen it or a copy of it.

It looks at pictures and labels and knows no net. A *group* is a set of samples that are one picture in different
copies: the same file, compressed again, resized, brightened or moved a little. A group is never divided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NEVER = -1
"""The fold of a sample that is always learned from: without it a class would have nothing left to learn from."""

SAME_PICTURE = 0.88
"""Correlation of two thumbnails from which on they count as one picture.

Different pictures of one class reached 0.85 at most, copies compressed to JPEG quality 50, resized to 0.7, with other
brightness or with noise 0.91 at least, on five data sets; a trial, not a committed measurement.
"""

_SIDE = 32
_NEIGHBOURHOOD = 9
_MIRRORS: tuple[tuple[int, ...], ...] = ((), (2,), (1,), (1, 2))
"""What is flipped of (samples, height, width)."""

_LUMA = (0.299, 0.587, 0.114)
_FLAT = 0.25
"""Deviation in grey levels, of 255, below which a picture has no content to tell it from another flat one."""


@dataclass(frozen=True)
class Folds:
    """Who is left out with whom.

    Attributes:
        of_sample: int64 (samples,), the fold that a sample is left out in, or `NEVER`.
        count: number of folds, 0 if nothing can be left out.
        groups: int64 (samples,), samples of one group carry the same number.
    """

    of_sample: Tensor
    count: int
    groups: Tensor

    def left_out(self, fold: int) -> Tensor:
        """Bool (samples,), True for what that fold leaves out."""
        return self.of_sample == fold


def copies(images: Sequence[Tensor], *, mirrors: bool = False) -> Tensor:
    """Number the groups of images that are copies of one picture.

    Args:
        images: canonical images, uint8 (1 or 3, height, width) each, of any sizes.
        mirrors: a picture's mirror images are copies of it too, as they are to a recipe that learns from them.

    Returns:
        int64 (samples,), equal for copies; chains of copies are one group.
    """
    correlation = likeness(images, mirrors=mirrors)
    groups = torch.arange(len(images))
    alike = (correlation >= SAME_PICTURE).triu(1).nonzero()
    for first, second in alike.tolist():
        old, new = groups[second].item(), groups[first].item()
        groups[groups == old] = new
    numbered: Tensor = torch.unique(groups, return_inverse=True)[1]
    return numbered


def likeness(images: Sequence[Tensor], *, mirrors: bool = False) -> Tensor:
    """Correlation of the images' thumbnails; with `mirrors` the largest over one's mirror images.

    A thumbnail is grey, 32 pixels wide, less its local mean, so that neither brightness nor lighting makes two pictures
    alike. Pictures without content are alike.

    Returns:
        float32 (samples, samples), at most 1.
    """
    thumbnails = torch.stack([_thumbnail(image) for image in images])  # (samples, side, side)
    flat = thumbnails.flatten(1)
    floor = _FLAT**2 * _SIDE**2
    energy = flat.square().sum(1) + floor  # (samples,)
    views = [thumbnails.flip(dims).flatten(1) for dims in (_MIRRORS if mirrors else _MIRRORS[:1])]
    products = torch.stack([flat @ view.T for view in views]).amax(0) + floor
    return products / (energy[:, None] * energy).sqrt()


def make_folds(labels: Tensor, groups: Tensor, most: int, generator: torch.Generator) -> Folds:
    """Deal groups into folds, class by class, so that each fold holds about as many samples of a class as any other.

    With no more groups than `most` each fold leaves out one group: leave-one-out.

    Args:
        labels: int64 (samples,), class indices.
        groups: int64 (samples,), from `copies`.
        most: largest number of folds, from 2.
        generator: shuffles the groups of a class.

    Returns:
        Folds in which what is not left out holds every class. A group that is all of its class is left out of none.
    """
    folds = torch.full_like(labels, NEVER)
    own = _groups_of_classes(labels, groups)
    movable = sum(len(of_class) for of_class in own.values() if len(of_class) > 1)
    count = min(most, movable)
    dealt = 0
    for of_class in own.values():
        if len(of_class) < 2:
            continue
        for place in torch.randperm(len(of_class), generator=generator).tolist():
            folds[groups == of_class[place]] = dealt % count
            dealt += 1
    _keep_every_class(folds, labels, count)
    return _without_empty(folds, groups)


def _groups_of_classes(labels: Tensor, groups: Tensor) -> dict[int, list[int]]:
    """The groups of each class, in order; a group with several labels is the class's that most of its samples have."""
    own: dict[int, list[int]] = {label: [] for label in torch.unique(labels).tolist()}
    for group in torch.unique(groups).tolist():
        own[int(labels[groups == group].mode().values)].append(group)
    return own


def _keep_every_class(folds: Tensor, labels: Tensor, count: int) -> None:
    """A fold that would leave out all of a class leaves these samples in."""
    for fold in range(count):
        kept = set(labels[folds != fold].tolist())
        for label in set(labels.tolist()) - kept:
            folds[(folds == fold) & (labels == label)] = NEVER


def _without_empty(folds: Tensor, groups: Tensor) -> Folds:
    used = [fold for fold in torch.unique(folds).tolist() if fold != NEVER]
    numbered = torch.full_like(folds, NEVER)
    for place, fold in enumerate(used):
        numbered[folds == fold] = place
    return Folds(numbered, len(used), groups)


def _thumbnail(image: Tensor) -> Tensor:
    """Grey levels less their local mean: float32 (side, side)."""
    values = image.to(torch.float32)
    if values.shape[0] == 3:
        values = (torch.tensor(_LUMA)[:, None, None] * values).sum(0, keepdim=True)
    small = F.interpolate(values[None], (_SIDE, _SIDE), mode="bilinear", align_corners=False, antialias=True)
    edge = _NEIGHBOURHOOD // 2
    around = F.avg_pool2d(F.pad(small, [edge] * 4, mode="replicate"), _NEIGHBOURHOOD, stride=1)
    return (small - around)[0, 0]
