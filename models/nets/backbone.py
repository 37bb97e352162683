"""A net with a frozen, pretrained backbone: any module, whose maps at several stages are pooled into features.

Only what follows the pooled features differs by task, so the backbone runs once per image, for all tasks together.
"""

from __future__ import annotations

import copy
import importlib
import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.config import NetConfig
from models.errors import InvalidConfig
from models.feature_arrays import PATCH_CHANNELS, SPREAD_EPSILON
from models.nets.base import Net
from models.nets.normalisation import Standardise
from models.nets.note_head import NoteFeatures
from models.nets.patch_memory import ALIGNED, PatchMemory, alignment, can_remember, projection
from models.task import Support

_EXTREME_SHARE = 0.02
"""Share of a map's pixels that count as its largest, and as its smallest."""

_DEVIATION_FLOOR = 0.05
"""Smallest deviation of a feature, as a share of its mean absolute value. A few images may agree in it by chance."""

_PLACES = range(100, 257)
"""Numbers of places of a stage that gives local features: few enough to store, enough to find a small defect."""

_PRIOR_COUNT = 30
"""Images that the prior of the features' variances counts for."""

_LEAST_LIMIT, _LIMIT_ROWS = 1.7, 60
"""Standardised features are limited to 1.7 + 60 / rows of the support, flips included: 4.7 at 5 images, 2 at 50."""


@dataclass(frozen=True)
class CovariancePrior:
    """How features vary within a class, learned from the classes of many tasks.

    The covariance within the classes of a task is then S + directions^T directions + ridge I, with S measured on its
    support. Ten images show ten directions in which a class varies; the prior knows others, such as light and focus.

    Attributes:
        variance: (features,), typical variance over the support of a task.
        directions: (rank, features), of standardised features with a mean square of 1.
        ridge: a scalar.
    """

    variance: Tensor
    directions: Tensor
    ridge: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, as a checkpoint stores them."""
        return {"variance": self.variance, "directions": self.directions, "ridge": self.ridge}


class BackboneNet(Net):
    """Pools the maps of a frozen backbone; standardises them by the support; gives every image the same length.

    The last layer of a classifier has forgotten textures and small defects; the stages before it still show them. Each
    stage gives the mean, the standard deviation, and the means of the largest and the smallest 2 % of every channel.
    The image itself gives the mean and the standard deviation of every colour.

    Behind these come local features: the maps of the last stage with about 12 x 12 places, projected to fewer channels.
    They count only where the weights have a `PatchMemory`. Notes may follow, see `models.nets.note_head`.

    Args:
        config: names the backbone and its stages.

    Attributes:
        backbone: the pretrained module. Its parameters are frozen and belong to all tasks.
        extremes: of each stage, the number of pixels in 2 % of a map. It is the same for images of every shape, because
            shapes have about the same area.
        patch_stage: index of the stage that gives local features, or None if no stage has a suitable size.
        places: number of places of this stage, in square images.
    """

    def __init__(self, config: NetConfig, _generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.factory)
        self.backbone.requires_grad_(False)
        self.eval()
        for index, module in enumerate(_modules(self.backbone, config.stages)):
            module.register_forward_hook(_Collect(index))
        stages = self.stage_maps(torch.zeros(1, config.image.channels, config.image.side, config.image.side))
        self.extremes = [max(1, round(_EXTREME_SHARE * pixels.shape[-1])) for pixels in stages]
        groups = [channels for pixels in stages for channels in 4 * [pixels.shape[1]]]
        groups += 2 * [config.image.channels]
        self.feature_count = sum(groups)
        suitable = [
            index
            for index, pixels in enumerate(stages)
            if pixels.shape[-1] in _PLACES and pixels.shape[1] >= PATCH_CHANNELS
        ]
        self.patch_stage = suitable[-1] if suitable else None
        self.places = stages[suitable[-1]].shape[-1] if suitable else 0
        self.memory = PatchMemory()
        self.notes = NoteFeatures()
        self.pooled = StandardiseSupport(groups)
        self.prior: CovariancePrior | None = None

    def embed(self, images: Tensor) -> Tensor:
        """See `Net.embed`: the pooled maps of all stages, and local features: (batch, embedding_count)."""
        return self.embed_stages(images, self.stage_outputs(images))

    def embed_stages(self, images: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """Pool what the stages returned for images; see `embed`."""
        stages = [_as_pixels(*each) for each in zip(outputs, self.config.stages, strict=True)]
        pooled = [_pool(pixels, extremes) for pixels, extremes in zip(stages, self.extremes, strict=True)]
        return torch.cat([*pooled, *_mean_and_deviation(images.flatten(2)), self.patches(stages)], dim=-1)

    @property
    def embedding_count(self) -> int:
        """Numbers that `embed` returns for an image: `feature_count`, and those of the local features."""
        return self.feature_count + PATCH_CHANNELS * self.places

    def patches(self, stages: Sequence[Tensor]) -> Tensor:
        """Local features, (batch, PATCH_CHANNELS * places), of the maps of all stages, (batch, channels, pixels) each.

        Images of other shapes have a few places more or less; they are cut, or filled up with zeros.
        """
        if self.patch_stage is None:
            return stages[0][:, :0, 0]
        maps = stages[self.patch_stage]
        projected = projection(maps.shape[1]).to(maps.device) @ maps
        return F.pad(projected, (0, self.places - maps.shape[-1])).flatten(1)

    def stage_maps(self, images: Tensor) -> list[Tensor]:
        """Run the backbone: the maps of each stage, (batch, channels, pixels)."""
        return [_as_pixels(*each) for each in zip(self.stage_outputs(images), self.config.stages, strict=True)]

    def stage_outputs(self, images: Tensor) -> list[Tensor]:
        """Run the backbone: what each stage returns, (batch, channels, height, width) or (batch, tokens, channels)."""
        self.backbone(images)
        maps, _collected.maps = _collected.maps, {}
        return [maps[index] for index in sorted(maps)]

    def forward(self, inputs: Tensor) -> Tensor:
        """Standardise pooled maps and scale each image's to a mean square of 1.

        Returns:
            (batch, feature_count); behind them the features of a `PatchMemory`, and those of notes.
        """
        pooled = self.pooled(inputs[:, : self.feature_count])
        features = F.normalize(pooled, dim=-1) * self.feature_count**0.5
        notes = self.notes(self.note_rows(inputs))
        return torch.cat([features, self.memory(self.local_features(inputs)), notes], dim=-1)

    def local_features(self, inputs: Tensor) -> Tensor:
        """The part of the inputs, (batch, ...), that a `PatchMemory` compares."""
        return inputs[:, self.feature_count : self.embedding_count]

    def note_rows(self, inputs: Tensor) -> Tensor:
        """The part of the inputs, (batch, ...), behind the embedded images."""
        return inputs[:, self.embedding_count :]

    def can_remember(self, support: Support) -> bool:
        """Whether a `PatchMemory` of this support can be built."""
        if not self.local_features(support.inputs).shape[-1]:
            return False
        return can_remember(support.sample_labels, support.sample_groups, support.n_way)

    def is_aligned(self, support: Support) -> bool:
        """Whether the images of a support with local features seem to come from a fixed camera."""
        return alignment(self.local_features(support.samples)) >= ALIGNED

    def adapted_part(self) -> BackboneNet:
        """See `Net.adapted_part`: the net without its backbone."""
        return self.with_backbone(nn.Identity())

    def with_backbone(self, backbone: nn.Module) -> BackboneNet:
        """A net with another module in place of the backbone, of the same stages."""
        other = copy.copy(self)
        other._modules = {**self._modules, "backbone": backbone}  # noqa: SLF001 - of a copy of this object
        return other

    def use_prior(self, prior: CovariancePrior) -> None:
        """Use what was learned about variances and covariances in every adaptation; call it before the first one."""
        float32 = {name: tensor.float() for name, tensor in prior.tensors().items()}
        self.prior = CovariancePrior(**float32)
        self.pooled.prior_variance = float32["variance"]


def standardised_length(inputs: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Root mean square of each image's standardised features, which `BackboneNet.forward` scales to 1.

    Args:
        inputs: embeddings, (..., batch, embedding_count), which begin with the pooled maps.
        scale: ``pooled.scale`` of folded weights, (..., features).
        shift: ``pooled.shift`` of folded weights, (..., features).

    Returns:
        (..., batch).
    """
    pooled = inputs[..., : scale.shape[-1]]
    return torch.addcmul(shift[..., None, :], pooled, scale[..., None, :]).square().mean(-1).sqrt()


class StandardiseSupport(Standardise):
    """Standardises by a support that may be small, and limits what comes out, so that no feature decides alone.

    The more images the deviations are measured on, the closer the limit, from `_LEAST_LIMIT` up.

    Args:
        groups: numbers of features that belong together: those of one stage and one way of pooling.

    Attributes:
        prior_variance: (features,), typical variance over a support, or None.
        limit: (tasks,) or (tasks, 1), the largest absolute value; None if there is none, as in earlier versions.
    """

    limit: Tensor | None

    def __init__(self, groups: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("limit", None)
        # No buffer: calls with given weights run in copies without memory for parameters and buffers.
        self.prior_variance: Tensor | None = None
        self._groups = list(groups)

    def forward(self, features: Tensor) -> Tensor:
        """See `Standardise.forward`; limited."""
        standardised = super().forward(features)
        limit = self.limit
        if limit is None and self.mean is None and self.scale is None:  # by the batch at hand
            largest = _LEAST_LIMIT + _LIMIT_ROWS * self.tasks / len(features)
            limit = torch.full((self.tasks, 1), largest, device=features.device)
            if self.recording:
                self.recorded["limit"] = limit
        if limit is None:
            return standardised
        by_task = standardised.view(self.tasks, -1, features.shape[-1])  # (tasks, batch, features)
        limit = limit.view(-1, 1, 1)
        return torch.minimum(torch.maximum(by_task, -limit), limit).flatten(0, 1)

    def regularise(self, variance: Tensor, by_task: Tensor) -> Tensor:
        """Shrink the variances towards their typical ratios within each group, or else keep them from vanishing."""
        if self.prior_variance is None:
            level = by_task.abs().mean(1, keepdim=True)
            return torch.maximum(variance, (_DEVIATION_FLOOR * level).square())
        typical = self.prior_variance.to(variance.device)
        log_ratio = torch.log(variance + SPREAD_EPSILON) - torch.log(typical)
        parts = torch.split(log_ratio, self._groups, dim=-1)
        level = torch.cat([part.mean(-1, keepdim=True).expand_as(part) for part in parts], dim=-1)
        samples = by_task.shape[1]
        return (samples * variance + _PRIOR_COUNT * typical * level.exp()) / (samples + _PRIOR_COUNT)


def _as_pixels(maps: Tensor, stage: str) -> Tensor:
    """Maps (batch, channels, height, width), or tokens (batch, tokens, channels), as (batch, channels, pixels)."""
    shape = getattr(maps, "shape", None)
    if shape is None or len(shape) not in (3, 4):
        raise InvalidConfig(
            f"stage {stage!r} of the backbone returns {shape or type(maps).__name__}; name stages that return maps "
            "(batch, channels, height, width) or tokens (batch, tokens, channels)"
        )
    return maps.flatten(2) if maps.ndim == 4 else maps.transpose(1, 2)


def _pool(pixels: Tensor, extremes: int) -> Tensor:
    """Mean, deviation, and means of the `extremes` largest and smallest: (batch, channels, pixels) -> 4 * channels."""
    mean, deviation = _mean_and_deviation(pixels)
    largest = pixels.topk(extremes, dim=-1).values.mean(-1)
    smallest = pixels.topk(extremes, dim=-1, largest=False).values.mean(-1)
    return torch.cat([mean, deviation, largest, smallest], dim=-1)


def _mean_and_deviation(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """(batch, channels, pixels) -> two (batch, channels)."""
    mean = pixels.mean(-1)
    return mean, torch.sqrt((pixels - mean[..., None]).square().mean(-1) + SPREAD_EPSILON)


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Copy a module and multiply batch normalisations into the convolutions before them, where a Sequential shows both.

    The copy computes the same, faster, and needs no running statistics.
    """
    folded = copy.deepcopy(module)
    for parent in [part for part in folded.modules() if isinstance(part, nn.Sequential)]:
        layers = list(parent.named_children())
        for (name, layer), (next_name, following) in itertools.pairwise(layers):
            if isinstance(layer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(layer, following))
                setattr(parent, next_name, nn.Identity())
    return folded.requires_grad_(False)


def build_backbone(factory: str) -> nn.Module:
    """Call a backbone's factory.

    Args:
        factory: ``module:callable``, for example ``models.nets.efficientnet_lite:efficientnet_lite0``. It is called
            without arguments and returns a module.

    Raises:
        InvalidConfig: it cannot be imported, fails, or does not return a module.
    """
    module_name, _, attribute = factory.partition(":")
    try:
        function: Callable[[], Any] = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # the module is anyone's code, and may raise anything
        raise InvalidConfig(
            f"the backbone factory {factory!r} cannot be imported ({_reason(error)}); give module:callable, and "
            "install or put on PYTHONPATH what defines it"
        ) from error
    try:
        built = function()
    except Exception as error:  # and so is the function
        raise InvalidConfig(
            f"the backbone factory {factory!r} failed ({_reason(error)}); it must return a module when it is called "
            "without arguments"
        ) from error
    if not isinstance(built, nn.Module):
        raise InvalidConfig(
            f"the backbone factory {factory!r} returned {type(built).__name__}; it must return a module"
        )
    return built


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


class _Collected(threading.local):
    """The maps of the current thread's pass through a backbone, by the index of the stage."""

    def __init__(self) -> None:
        self.maps: dict[int, Tensor] = {}


_collected = _Collected()


class _Collect:
    """A forward hook that keeps what a stage returns. Threads may share a backbone."""

    def __init__(self, index: int) -> None:
        self._index = index

    def __call__(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        _collected.maps[self._index] = output


def _modules(backbone: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    known = dict(backbone.named_modules())
    missing = [name for name in names if name not in known]
    if missing or not names:
        children = ", ".join(name for name in known if name and name.count(".") <= 1)
        raise InvalidConfig(
            f"the backbone has no stage {', '.join(missing) or '(none were named)'}; its modules are {children}"
        )
    return [known[name] for name in names]
