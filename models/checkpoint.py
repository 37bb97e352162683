"""Checkpoints: a meta-trained start with everything needed to use it, in one safetensors file.

The file's metadata hold the net's spec, the recipe and the training's record as JSON, and a digest over all of it and
over the weights' bits; loading computes the digest again. Nothing is unpickled, ever.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from models import weights as algebra
from models.adaptation.optimisers import Moments
from models.atomic_files import write_atomically
from models.config import InnerLoopConfig, NetConfig
from models.errors import CheckpointInvalid, InvalidConfig
from models.images.preprocessing import PREPROCESSING_VERSION
from models.meta.outer_adam import OuterMoments
from models.nets import Net, build
from models.weights import Weights

FORMAT = "anole-checkpoint-1"
SHIPPED = Path(__file__).parent / "pretrained"

_MOMENT_PREFIX = "moments."
_OUTER_PREFIXES = ("outer.first.", "outer.second.")


@dataclass(frozen=True)
class Checkpoint:
    """A meta-trained start.

    Attributes:
        name: what it is called, e.g. "surfaces".
        net_config: the net it belongs to.
        recipe: the inner loop it was trained for and is served with.
        weights: name -> tensor.
        moments: Adam's second moments, for recipes that carry them.
        training: JSON data: how it was trained, and where an unfinished training stands.
        outer: the outer loop's Adam of an unfinished training that has one; no adaptation depends on it.
    """

    name: str
    net_config: NetConfig
    recipe: InnerLoopConfig
    weights: Weights
    moments: Moments | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    outer: OuterMoments | None = None

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over all tensors, net, recipe and the preprocessing's version; names do not count."""
        return algebra.digest(self.tensors(), json.dumps(self.settings(), sort_keys=True))

    def build_net(self) -> Net:
        """Build its net; the net's own parameters are not the checkpoint's and are not used."""
        return build(self.net_config)

    def on(self, device: torch.device) -> Checkpoint:
        """The same with its weights and moments on `device`."""
        moments = self.moments and replace(self.moments, second=_moved(self.moments.second, device))
        return replace(self, weights=_moved(self.weights, device), moments=moments)

    def settings(self) -> dict[str, Any]:
        """Everything but tensors that decides what an adaptation gives, as JSON data."""
        return {
            "format": FORMAT,
            "preprocessing": PREPROCESSING_VERSION,
            "net": self.net_config.to_json(),
            "recipe": json.loads(json.dumps(self.recipe.to_json())),
            "moment_steps": self.moments.steps if self.moments else None,
            **({"outer_steps": self.outer.steps} if self.outer else {}),
        }

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that is written, on the CPU; the moments' names carry a prefix."""
        parts = {"": self.weights}
        if self.moments:
            parts[_MOMENT_PREFIX] = self.moments.second
        if self.outer:
            parts |= dict(zip(_OUTER_PREFIXES, (self.outer.first, self.outer.second), strict=True))
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


def load_checkpoint(name_or_path: str | Path) -> Checkpoint:
    """Load a shipped checkpoint by its name, or any by its path.

    Raises:
        CheckpointInvalid: no such file, not a checkpoint, of another format, or its digest does not match.
    """
    path = find_checkpoint(name_or_path)
    content = path.read_bytes()
    try:
        tensors = load_tensors(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = header["__metadata__"]
        settings = json.loads(metadata["settings"])
        checkpoint = _assemble(path.stem, settings, tensors, json.loads(metadata["training"]))
    except (SafetensorError, KeyError, ValueError, TypeError, InvalidConfig) as error:
        raise CheckpointInvalid(f"{path} is not a checkpoint of this version of Anole: {error}") from error
    if checkpoint.digest != metadata["digest"]:
        raise CheckpointInvalid(
            f"{path} is damaged: its content has digest {checkpoint.digest[:12]}…, "
            f"it was written with {str(metadata['digest'])[:12]}…; fetch the file again"
        )
    return checkpoint


def find_checkpoint(name_or_path: str | Path) -> Path:
    """The file of a shipped name or a path; raises CheckpointInvalid if there is none."""
    shipped = SHIPPED / f"{name_or_path}.safetensors"
    path = shipped if shipped.is_file() else Path(name_or_path)
    if not path.is_file():
        names = ", ".join(shipped_names()) or "none"
        raise CheckpointInvalid(
            f"no checkpoint {str(name_or_path)!r}; give a path to a file, or a shipped name: {names}"
        )
    return path


def shipped_names() -> list[str]:
    """Names of the checkpoints that come with the project."""
    return sorted(path.stem for path in SHIPPED.glob("*.safetensors"))


def _assemble(
    name: str, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], training: Mapping[str, Any]
) -> Checkpoint:
    if settings["format"] != FORMAT or settings["preprocessing"] != PREPROCESSING_VERSION:
        raise ValueError(
            f"format {settings['format']!r} with preprocessing {settings['preprocessing']!r}; "
            f"this version reads {FORMAT!r} with {PREPROCESSING_VERSION}"
        )
    moment_steps, outer_steps = settings["moment_steps"], settings.get("outer_steps")
    prefixes = (_MOMENT_PREFIX, *_OUTER_PREFIXES)
    second, outer_first, outer_second = (_with_prefix(tensors, prefix) for prefix in prefixes)
    return Checkpoint(
        name=name,
        net_config=NetConfig.from_json(settings["net"]),
        recipe=InnerLoopConfig.from_json(settings["recipe"]),
        weights={key: value for key, value in tensors.items() if not key.startswith(prefixes)},
        moments=None if moment_steps is None else Moments(second, moment_steps),
        training=training,
        outer=None if outer_steps is None else OuterMoments(outer_first, outer_second, outer_steps),
    )


def _moved(weights: Weights, device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in weights.items()}


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
