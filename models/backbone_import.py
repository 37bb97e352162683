"""Makes a checkpoint of any pretrained backbone: an ordinary module, its weights and the stages that are pooled."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from models.checkpoint import Checkpoint, backbone_checkpoint
from models.config import BACKBONE_RECIPE, NetConfig
from models.errors import CheckpointInvalid, InvalidConfig
from models.images.preprocessing import ImageConfig
from models.nets import BackboneNet
from models.nets.backbone import build_backbone
from models.nets.stages import find_stages

_SHOWN = 3
_COUNTER = "num_batches_tracked"
"""Batch normalisation counts batches in training alone; many files of weights leave the counts out."""


def import_backbone(
    name: str, factory: str, weights_file: Path, image: ImageConfig, stages: Sequence[str] = ()
) -> Checkpoint:
    """Make a checkpoint of a pretrained backbone. It gets `fit` "area" if the backbone takes images of every shape.

    Args:
        name: of the checkpoint.
        factory: ``module:callable``, called without arguments; returns the module. This runs its code.
        weights_file: a safetensors file with the state dict of the module.
        image: preprocessing of the images; its `fit` does not matter.
        stages: names of the submodules whose maps are pooled; empty to find them.

    Raises:
        InvalidConfig: the factory fails, the backbone does not take images of this side, or it has no such stages.
        CheckpointInvalid: the weights cannot be read or do not fit, or the features are not finite.
    """
    content = _read(weights_file)
    backbone = build_backbone(factory).eval()
    weights = _fitting(backbone, _tensors(weights_file, content), weights_file)
    backbone.load_state_dict(weights)
    square = replace(image, fit="stretch")
    images = _noise(square, square.shapes[0])
    try:
        with torch.no_grad():
            backbone(images)
    except Exception as error:  # the backbone is anyone's code, and may raise anything
        raise InvalidConfig(
            f"the backbone does not take images of {image.channels} x {image.side} x {image.side} ({error}); pass the "
            "--side that it was trained with, such as 224"
        ) from error
    config = NetConfig("backbone", square, factory=factory, stages=tuple(stages) or find_stages(backbone, images))
    record = {"factory": factory, "sha256_of_weights": hashlib.sha256(content).hexdigest()}
    checkpoint = backbone_checkpoint(name, config, BACKBONE_RECIPE, weights, record)
    net = checkpoint.build_net()
    if not isinstance(net, BackboneNet) or not net.embed(images).isfinite().all():
        raise CheckpointInvalid(
            f"the features of the backbone are not finite with the weights in {weights_file}; check that the file "
            "belongs to the factory, and that --contrast is right"
        )
    return replace(checkpoint, net_config=replace(config, image=_fitted(net, image)))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointInvalid(f"cannot read the weights: {error}") from error


def _tensors(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        return load_tensors(content)
    except SafetensorError as error:
        raise CheckpointInvalid(
            f"{path} is not a safetensors file ({error}); convert the state dict with safetensors.torch.save_file"
        ) from error


def _fitting(backbone: nn.Module, weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The weights, completed by counters that only training needs, if names and shapes are those of the backbone."""
    expected = backbone.state_dict()
    complete = {name: tensor for name, tensor in expected.items() if name.endswith(_COUNTER)} | dict(weights)
    problems = {
        "missing": [name for name in expected if name not in complete],
        "unexpected": [name for name in complete if name not in expected],
        "of another shape": [
            f"{name} {tuple(complete[name].shape)} instead of {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in complete and complete[name].shape != tensor.shape
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{problem}: {_shortly(names)}" for problem, names in problems.items() if names)
        raise CheckpointInvalid(
            f"the weights in {path} do not fit the backbone ({listed}); pass the weights of this net, or a factory "
            "that builds the net of these weights"
        )
    return complete


def _shortly(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _fitted(net: BackboneNet, image: ImageConfig) -> ImageConfig:
    """The image config with fit "area" if it has several shapes and the net takes each, else with fit "stretch"."""
    stretched = replace(image, fit="stretch")
    try:
        area = replace(image, fit="area")
        features = [net.embed(_noise(area, shape)) for shape in area.shapes]
    except Exception:  # noqa: BLE001 - the side is no multiple of 32, or the backbone raises whatever it likes
        return stretched
    return area if len(features) > 1 and all(rows.isfinite().all() for rows in features) else stretched


def _noise(image: ImageConfig, shape: tuple[int, int]) -> Tensor:
    """Two noisy images: float32 (2, channels, height, width)."""
    return torch.randn(2, image.channels, *shape, generator=torch.Generator().manual_seed(0))
