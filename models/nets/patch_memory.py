"""A memory of local features of the support, with which images are compared place by place.

Under a fixed camera the same place shows the same thing. A small defect hardly changes features that are pooled over
the whole image, but at its place the image differs from every support image without it. The comparison is that of
PatchCore (Roth et al. 2022, arXiv:2106.08265), with two differences: a place is compared with the same place alone, and
every class has a memory of its own.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import weight_names
from models.feature_arrays import LEAST_PATCH_DISTANCE, PATCH_CHANNELS, PATCH_SHARES, projection_signs

NAMES = PATCHES, SCALE, SHIFT = weight_names.PATCHES, weight_names.PATCH_SCALE, weight_names.PATCH_SHIFT
"""Names of the weights of a `PatchMemory` in a `BackboneNet`."""

MOST_IMAGES = 20
"""Images in the memory of all classes together: 184 KB in float16."""

MOST_WAYS = 8
"""Classes that a memory can hold: with more, a version would be larger than 300 KB."""

FEATURES_PER_CLASS = 4

_LEAST_DEVIATION = 1e-3


class PatchMemory(nn.Module):
    """Features that tell how much an image differs from the stored images of each class, place by place.

    For each class they are the logarithms of the largest squared distance of all places, of the means over the largest
    2 and 8 %, and of the mean. The distance at a place is that to the nearest stored image of the class, so that parts
    may be shifted a little, as some of the stored ones are.

    Attributes:
        patches: (tasks, n_way, stored, PATCH_CHANNELS, places), the stored images; None without a memory.
        scale: (tasks, n_way * FEATURES_PER_CLASS), what features are multiplied by, and
        shift: of the same shape, what is added then.
    """

    patches: Tensor | None
    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("patches", "scale", "shift"):
            self.register_buffer(name, None)

    def forward(self, patches: Tensor) -> Tensor:
        """Compare images, (tasks * batch, PATCH_CHANNELS * places): (tasks * batch, n_way * FEATURES_PER_CLASS)."""
        if self.patches is None:
            return patches[:, :0]
        by_task = patches.view(len(self.patches), -1, patches.shape[-1])
        weights = zip(by_task, self.patches, self.scale, self.shift, strict=True)
        return torch.cat([compare(*of_task) for of_task in weights])


def compare(images: Tensor, patches: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Compute the features of a `PatchMemory` for images, (images, PATCH_CHANNELS * places), of one task.

    The weights are those of the module, without the dimension of tasks.
    """
    by_place = images.reshape(len(images), *patches.shape[-2:])
    return _same_length(_summarise(_distances(by_place, patches)) * scale + shift)


def projection(channels: int) -> Tensor:
    """See `models.feature_arrays.projection_signs`."""
    return torch.from_numpy(projection_signs(channels))


def build_memory(patches: Tensor, labels: Tensor, groups: Tensor, n_way: int) -> tuple[dict[str, Tensor], Tensor]:
    """Store support images, and compare each image of the support with those that show other objects.

    Args:
        patches: (samples, PATCH_CHANNELS * places).
        labels: int64 (samples,).
        groups: int64 (samples,); images of one group show the same object.
        n_way: number of classes, up to `MOST_WAYS`.

    Returns:
        The weights of a `PatchMemory` of one task, and the features of the samples, (samples, features).
    """
    stored = torch.stack([_rows_to_store(labels == label, MOST_IMAGES // n_way) for label in range(n_way)])
    by_place = patches.view(len(patches), PATCH_CHANNELS, -1)
    memory = by_place[stored].half()  # (n_way, stored, channels, places)
    same_object = groups[:, None, None] == groups[stored]  # (samples, n_way, stored)
    features = _summarise(_distances(by_place, memory, same_object))
    deviation, mean = torch.std_mean(features, 0, correction=0)
    scale = 1 / deviation.clamp(min=_LEAST_DEVIATION)
    return {PATCHES: memory, SCALE: scale, SHIFT: -mean * scale}, _same_length((features - mean) * scale)


def can_remember(labels: Tensor, groups: Tensor, n_way: int) -> bool:
    """Whether the memory can hold all classes, and each image can be compared with another object of each class."""
    return n_way <= MOST_WAYS and all(len(torch.unique(groups[labels == label])) > 1 for label in range(n_way))


def _distances(images: Tensor, memory: Tensor, excluded: Tensor | None = None) -> Tensor:
    """Squared distances at each place to the nearest stored image of each class.

    Args:
        images: (images, channels, places).
        memory: (n_way, stored, channels, places).
        excluded: bool (images, n_way, stored), stored images that an image is not compared with; never all of a class.

    Returns:
        (images, n_way, places). Each row depends on its own image alone, in every bit.
    """
    rows = []
    for index, image in enumerate(images):
        squares = (image - memory.float()).square().mean(-2)  # (n_way, stored, places)
        if excluded is not None:
            squares = squares.masked_fill(excluded[index, :, :, None], torch.inf)
        rows.append(squares.amin(1))
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


def _rows_to_store(members: Tensor, count: int) -> Tensor:
    """Evenly spaced rows of a class, some repeatedly if it has fewer: int64 (count,)."""
    rows = members.nonzero().flatten()
    if len(rows) > count:
        return rows[torch.linspace(0, len(rows) - 1, count).round().long()]
    return rows.repeat(-(-count // len(rows)))[:count]
