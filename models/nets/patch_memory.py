"""A memory of local features of the support, with which images are compared place by place.

Under a fixed camera the same place shows the same thing. A small defect hardly changes features that are pooled over
the whole image, but at its place the image differs from every support image without it. Parts are shifted a little and
light changes, which moves edges and outweighs a defect. These usual changes are learned from the support, and taken out
of an image before it is compared.

The comparison is that of PatchCore (Roth et al. 2022, arXiv:2106.08265), with two differences: a place is compared with
the same place alone, and every class has a memory of its own. Usual changes are taken out as by tangent distance
(Simard et al. 1993), with directions that come from the support.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import weight_names
from models.feature_arrays import LEAST_PATCH_DISTANCE, PATCH_CHANNELS, PATCH_SHARES, projection_signs

PATCHES, SCALE, SHIFT = weight_names.PATCHES, weight_names.PATCH_SCALE, weight_names.PATCH_SHIFT
BASIS = weight_names.PATCH_BASIS
NAMES = PATCHES, SCALE, SHIFT, BASIS
"""Names of the weights of a `PatchMemory` in a `BackboneNet`. Versions of earlier releases have no basis."""

MOST_MAPS = 18
"""Maps in the memory, the means of the classes and the basis together: 166 KB in float16."""

MOST_WAYS = 8
"""Classes that a memory can hold: with more, a version would be larger than 300 KB."""

FEATURES_PER_CLASS = 4

ALIGNED = 0.6
"""Share from which a support is aligned, see `alignment`."""

_BASIS_SAMPLES = 40
"""Support images that the basis is made from, evenly spaced: time grows with their number squared."""

_RIDGE = 0.6
"""Of the basis, relative to the mean squared length of the differences that it is made from."""

_LEAST_DEVIATION = 1e-3
_LEAST_RIDGE = 1e-6


class PatchMemory(nn.Module):
    """Features that tell how much an image differs from each class, place by place.

    For each class they are the logarithms of the largest squared distance of all places, of the means over the largest
    2 and 8 %, and of the mean. The distance at a place is that to the mean of the class, without the usual changes
    (`beyond_usual`). Versions of earlier releases store images of each class, and the nearest one counts at each place.

    Attributes:
        patches: (tasks, n_way, stored, PATCH_CHANNELS, places), the stored maps; None without a memory.
        scale: (tasks, n_way * FEATURES_PER_CLASS), what features are multiplied by, and
        shift: of the same shape, what is added then.
        basis: (tasks, rows, PATCH_CHANNELS * places), the usual changes; None in versions of earlier releases.
    """

    patches: Tensor | None
    scale: Tensor
    shift: Tensor
    basis: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        for name in ("patches", "scale", "shift", "basis"):
            self.register_buffer(name, None)

    def forward(self, patches: Tensor) -> Tensor:
        """Compare images, (tasks * batch, PATCH_CHANNELS * places): (tasks * batch, n_way * FEATURES_PER_CLASS)."""
        if self.patches is None:
            return patches[:, :0]
        by_task = patches.view(len(self.patches), -1, patches.shape[-1])
        bases = [None] * len(self.patches) if self.basis is None else self.basis
        weights = zip(by_task, self.patches, self.scale, self.shift, bases, strict=True)
        return torch.cat([compare(*of_task) for of_task in weights])


def compare(images: Tensor, patches: Tensor, scale: Tensor, shift: Tensor, basis: Tensor | None = None) -> Tensor:
    """Compute the features of a `PatchMemory` for images, (images, PATCH_CHANNELS * places), of one task.

    The weights are those of the module, without the dimension of tasks.
    """
    by_place = images.reshape(len(images), *patches.shape[-2:])
    return _same_length(_summarise(_distances(by_place, patches, basis)) * scale + shift)


def projection(channels: int) -> Tensor:
    """See `models.feature_arrays.projection_signs`."""
    return torch.from_numpy(projection_signs(channels))


def build_memory(patches: Tensor, labels: Tensor, groups: Tensor, n_way: int) -> tuple[dict[str, Tensor], Tensor]:
    """Store the means of the classes and the usual changes, and compare each support image with all other objects.

    Args:
        patches: (samples, PATCH_CHANNELS * places).
        labels: int64 (samples,).
        groups: int64 (samples,); images of one group show the same object.
        n_way: number of classes, up to `MOST_WAYS`.

    Returns:
        The weights of a `PatchMemory` of one task, and the features of the samples, (samples, features).
    """
    by_place = patches.view(len(patches), PATCH_CHANNELS, -1)
    features = patches.new_empty(len(patches), n_way * FEATURES_PER_CLASS)
    for group in torch.unique(groups):
        same = groups == group
        means, basis = _means_and_basis(patches[~same], labels[~same], n_way)
        features[same] = _summarise(_distances(by_place[same], means, basis))
    deviation, mean = torch.std_mean(features, 0, correction=0)
    scale = 1 / deviation.clamp(min=_LEAST_DEVIATION)
    means, basis = _means_and_basis(patches, labels, n_way)
    weights = {PATCHES: means, SCALE: scale, SHIFT: -mean * scale, BASIS: basis}
    return weights, _same_length((features - mean) * scale)


def can_remember(labels: Tensor, groups: Tensor, n_way: int) -> bool:
    """Whether the memory can hold all classes, and each image can be compared with another object of each class."""
    return n_way <= MOST_WAYS and all(len(torch.unique(groups[labels == label])) > 1 for label in range(n_way))


def alignment(patches: Tensor) -> float:
    """Share of the variance of local features, over images and places, that the place explains: at most 1.

    Under a fixed camera it is high, because the same place shows the same thing in images of all classes. In textures,
    photographs and crops of larger scenes it is low.

    Args:
        patches: (samples, PATCH_CHANNELS * places), at least two samples.
    """
    by_place = patches.view(len(patches), PATCH_CHANNELS, -1)
    within = by_place.var(0).mean()
    total = (by_place - by_place.mean((0, 2), keepdim=True)).square().mean()
    return 1 - float(within / total.clamp(min=LEAST_PATCH_DISTANCE))


def beyond_usual(differences: Tensor, basis: Tensor) -> Tensor:
    """Take the usual changes out of differences, (..., PATCH_CHANNELS * places), by ridge regression on the basis."""
    return differences - differences @ basis.T @ basis


def _means_and_basis(patches: Tensor, labels: Tensor, n_way: int) -> tuple[Tensor, Tensor]:
    """Mean of each class, (n_way, 1, PATCH_CHANNELS, places), and usual changes, (rows, PATCH_CHANNELS * places).

    The usual changes are the first principal components of the differences within the classes, all classes together. A
    component counts the less, the smaller its variance is beside the ridge.
    """
    means = torch.stack([patches[labels == label].mean(0) for label in range(n_way)])
    rows = torch.linspace(0, len(patches) - 1, min(len(patches), _BASIS_SAMPLES)).round().long()
    differences = patches[rows] - means[labels[rows]]
    gram = differences @ differences.T
    variances, directions = torch.linalg.eigh(gram)  # ascending
    kept = slice(-(MOST_MAPS - n_way), None)
    ridge = (_RIDGE * gram.diagonal().mean()).clamp(min=_LEAST_RIDGE)
    basis = directions[:, kept].T @ differences * torch.rsqrt(variances[kept].clamp(min=0) + ridge)[:, None]
    return means.view(n_way, 1, PATCH_CHANNELS, -1).half(), basis.half()


def _distances(images: Tensor, memory: Tensor, basis: Tensor | None) -> Tensor:
    """Squared distances at each place to the nearest stored map of each class.

    Args:
        images: (images, channels, places).
        memory: (n_way, stored, channels, places).
        basis: usual changes, which do not count; None if all changes do.

    Returns:
        (images, n_way, places). Each row depends on its own image alone, in every bit.
    """
    rows = []
    for image in images:
        differences = image - memory.float()
        if basis is not None:
            differences = beyond_usual(differences.flatten(-2), basis.float()).view_as(differences)
        rows.append(differences.square().mean(-2).amin(1))
    return torch.stack(rows) if rows else memory.new_zeros(0, len(memory), memory.shape[-1]).float()


def largest_counts(places: int) -> list[int]:
    """Numbers of largest distances that are averaged: one, and `PATCH_SHARES` of the places."""
    return [1, *(max(1, round(share * places)) for share in PATCH_SHARES)]


def _summarise(squares: Tensor) -> Tensor:
    """Pool distances (images, n_way, places) to features (images, n_way * FEATURES_PER_CLASS)."""
    places = squares.shape[-1]
    counts = largest_counts(places)
    largest = squares.topk(max(counts), dim=-1).values
    pooled = [*(largest[..., :count].mean(-1) for count in counts), squares.mean(-1)]
    return torch.stack(pooled, -1).clamp(min=LEAST_PATCH_DISTANCE).log().flatten(1)


def _same_length(features: Tensor) -> Tensor:
    """Scale each image's features to a mean square of 1."""
    return F.normalize(features, dim=-1) * math.sqrt(features.shape[-1])
