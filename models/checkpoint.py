"""Checkpoints: a meta-trained start and its settings in one safetensors file.

The file's metadata hold the net config, the inner-loop recipe and the training record as JSON, and a digest of the
settings and tensors that is verified on loading.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from models import weights as weight_ops
from models.adaptation.optimisers import Moments
from models.atomic_files import write_atomically
from models.config import EFFICIENTNET_LITE0, InnerLoopConfig, NetConfig
from models.errors import CheckpointInvalid, InvalidConfig
from models.images.preprocessing import PREPROCESSING_VERSION
from models.meta.outer_loop import AdamState
from models.nets import BackboneNet, Net, build
from models.nets.backbone import CovariancePrior
from models.weights import Weights

FORMAT = "anole-checkpoint-1"
SHIPPED = Path(__file__).parent / "pretrained"

SHIPPED_ALIASES: Final[Mapping[str, str]] = {"surfaces-small": "surfaces"}
"""Other names of shipped checkpoints."""

EARLIER_DIGESTS: Final[Mapping[str, str]] = {
    "e26c2a771b7084294c4a3c2617763c7b7232eb453aabcf2781b82325394fe58c": "surfaces",
}
"""Digests that shipped checkpoints had in earlier releases, with the same net and weights but another recipe."""

TRUSTED_FACTORIES: Final = frozenset({EFFICIENTNET_LITE0.factory})
"""Backbone factories that a checkpoint may always name."""

_BACKBONE_PREFIX = "backbone."
_PRIOR_PREFIX = "prior."
_MOMENT_PREFIX = "moments."
_OUTER_PREFIXES = ("outer.first.", "outer.second.")


@dataclass(frozen=True)
class Checkpoint:
    """A meta-trained start.

    Attributes:
        name: e.g. "surfaces".
        net_config: the net that the weights belong to.
        recipe: the inner loop to adapt with.
        weights: name -> tensor.
        backbone: state of a frozen backbone, which no task adapts; kernels in half precision.
        prior: what meta-training learned about covariances, for nets with a frozen backbone.
        moments: Adam's second moments, for recipes that carry them.
        training: JSON data: how it was trained, and the progress of an unfinished training.
        outer_adam: state of the outer Adam of an unfinished training; adaptation does not use it.
        onnx_graph: the net as an ONNX graph for prediction (`models.inference.export`), if there is one beside the
            file; it is not part of the digest.
    """

    name: str
    net_config: NetConfig
    recipe: InnerLoopConfig
    weights: Weights
    moments: Moments | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    outer_adam: AdamState | None = None
    onnx_graph: bytes | None = None
    backbone: Weights = field(default_factory=dict)
    prior: CovariancePrior | None = None

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over tensors, net config, recipe and preprocessing version; the name is not included."""
        return weight_ops.digest(self.tensors(), json.dumps(self.settings(), sort_keys=True))

    def build_net(self) -> Net:
        """Build the net with fresh parameters, and its frozen backbone; callers pass it the checkpoint's weights.

        Raises:
            CheckpointInvalid: the weights do not fit the backbone.
        """
        net = build(self.net_config)
        if isinstance(net, BackboneNet):
            try:
                net.backbone.load_state_dict(self.backbone)
            except RuntimeError as error:
                raise CheckpointInvalid(f"the weights of {self.name} do not fit its backbone: {error}") from error
            if self.prior is not None:
                net.use_prior(self.prior)
        return net

    def on(self, device: torch.device) -> Checkpoint:
        """A copy with weights and moments on `device`."""
        moments = self.moments and replace(self.moments, second=_moved(self.moments.second, device))
        return replace(self, weights=_moved(self.weights, device), moments=moments)

    def settings(self) -> dict[str, Any]:
        """All settings besides tensors that determine the result of an adaptation, as JSON data."""
        return {
            "format": FORMAT,
            "preprocessing": PREPROCESSING_VERSION,
            "net": self.net_config.to_json(),
            "recipe": json.loads(json.dumps(self.recipe.to_json())),
            "moment_steps": self.moments.steps if self.moments else None,
            **({"outer_steps": self.outer_adam.steps} if self.outer_adam else {}),
        }

    def tensors(self) -> dict[str, Tensor]:
        """All tensors as stored, on the CPU; the names of optimiser states have a prefix."""
        parts = {"": self.weights, _BACKBONE_PREFIX: self.backbone}
        if self.prior:
            parts[_PRIOR_PREFIX] = self.prior.tensors()
        if self.moments:
            parts[_MOMENT_PREFIX] = self.moments.second
        if self.outer_adam:
            parts |= dict(zip(_OUTER_PREFIXES, (self.outer_adam.first, self.outer_adam.second), strict=True))
        return {
            prefix + name: tensor.detach().cpu().contiguous()
            for prefix, weights in parts.items()
            for name, tensor in weights.items()
        }


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write the checkpoint, atomically and durably; missing folders are created."""
    metadata = {
        "settings": json.dumps(checkpoint.settings(), sort_keys=True),
        "training": json.dumps(dict(checkpoint.training), sort_keys=True),
        "digest": checkpoint.digest,
    }
    write_atomically(path, save_tensors(checkpoint.tensors(), metadata))


def load_checkpoint(name_or_path: str | Path, allow_factories: Collection[str] = ()) -> Checkpoint:
    """Load a shipped checkpoint by name, or any checkpoint by path.

    Args:
        name_or_path: which one.
        allow_factories: backbone factories, ``module:callable``, that the checkpoint may name beside the
            `TRUSTED_FACTORIES`. Building its net imports and calls them, so a file from elsewhere must not choose.

    Raises:
        CheckpointInvalid: the file does not exist, is not a checkpoint of this format, does not match its digest, or
            names a factory that is not allowed.
    """
    path = find_checkpoint(name_or_path)
    content = path.read_bytes()
    try:
        tensors = load_tensors(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = header.get("__metadata__", {})
        if "settings" not in metadata:
            raise CheckpointInvalid(
                f"{path} is not a checkpoint: it has no settings; if it holds the weights of a backbone, make a "
                "checkpoint with `anole import-backbone`"
            )
        settings = json.loads(metadata["settings"])
        checkpoint = _assemble(path.stem, settings, tensors, json.loads(metadata["training"]))
    except (SafetensorError, KeyError, ValueError, TypeError, InvalidConfig) as error:
        raise CheckpointInvalid(f"{path} is not a checkpoint that this version of Anole can read: {error}") from error
    if checkpoint.digest != metadata["digest"]:
        raise CheckpointInvalid(
            f"{path} is damaged: its content has digest {checkpoint.digest[:12]}…, but it was saved with "
            f"{str(metadata['digest'])[:12]}…; restore or download the file again"
        )
    factory = checkpoint.net_config.factory
    if factory and factory not in TRUSTED_FACTORIES.union(allow_factories):
        raise CheckpointInvalid(
            f"{path} builds its backbone with {factory!r}, which is not allowed, because it would run that code; if "
            f"you trust it, pass --allow-factory {factory} or set ANOLE_ALLOW_FACTORY"
        )
    graph = path.with_suffix(".onnx")
    return replace(checkpoint, onnx_graph=graph.read_bytes()) if graph.is_file() else checkpoint


def backbone_checkpoint(
    name: str, net_config: NetConfig, recipe: InnerLoopConfig, backbone: Weights, record: Mapping[str, Any]
) -> Checkpoint:
    """Make a checkpoint of a pretrained backbone. Kernels are kept in half precision.

    Args:
        name: of the checkpoint.
        net_config: names the backbone's factory and its stages.
        recipe: the inner loop to adapt with.
        backbone: the backbone's state dict.
        record: JSON data: where the weights come from, and their licence.

    Raises:
        CheckpointInvalid: the weights do not fit the backbone.
    """
    kept = {
        key: tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor
        for key, tensor in backbone.items()
    }
    checkpoint = Checkpoint(name, net_config, recipe, {}, training=record, backbone=kept)
    checkpoint.build_net()
    return checkpoint


def find_checkpoint(name_or_path: str | Path) -> Path:
    """Path of a checkpoint given by shipped name or path; raises CheckpointInvalid if it does not exist."""
    shipped = SHIPPED / f"{SHIPPED_ALIASES.get(str(name_or_path), name_or_path)}.safetensors"
    path = shipped if shipped.is_file() else Path(name_or_path)
    if not path.is_file():
        names = ", ".join(shipped_names()) or "none"
        raise CheckpointInvalid(
            f"no checkpoint {str(name_or_path)!r}; pass the path of a file or a shipped name: {names}"
        )
    return path


def shipped_names() -> list[str]:
    """Names of the checkpoints shipped with Anole."""
    return sorted(path.stem for path in SHIPPED.glob("*.safetensors"))


def shipped_digests() -> dict[str, str]:
    """Digest -> name of the shipped checkpoints, with `EARLIER_DIGESTS`. The digests are read and not verified."""
    digests = {_saved_digest(find_checkpoint(name)): name for name in shipped_names()}
    return {**EARLIER_DIGESTS, **digests}


def _saved_digest(path: Path) -> str:
    with safe_open(path, "pt") as file:
        return str(file.metadata()["digest"])


def _assemble(
    name: str, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], training: Mapping[str, Any]
) -> Checkpoint:
    if settings["format"] != FORMAT or settings["preprocessing"] != PREPROCESSING_VERSION:
        raise ValueError(
            f"it has format {settings['format']!r} and preprocessing {settings['preprocessing']!r}; supported are "
            f"{FORMAT!r} and {PREPROCESSING_VERSION}"
        )
    moment_steps, outer_steps = settings["moment_steps"], settings.get("outer_steps")
    prefixes = (_BACKBONE_PREFIX, _PRIOR_PREFIX, _MOMENT_PREFIX, *_OUTER_PREFIXES)
    backbone, prior, second, outer_first, outer_second = (_with_prefix(tensors, prefix) for prefix in prefixes)
    return Checkpoint(
        name=name,
        net_config=NetConfig.from_json(settings["net"]),
        recipe=InnerLoopConfig.from_json(settings["recipe"]),
        weights={key: value for key, value in tensors.items() if not key.startswith(prefixes)},
        moments=None if moment_steps is None else Moments(second, moment_steps),
        training=training,
        outer_adam=None if outer_steps is None else AdamState(outer_first, outer_second, outer_steps),
        backbone=backbone,
        prior=CovariancePrior(**prior) if prior else None,
    )


def _moved(weights: Weights, device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in weights.items()}


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
