"""Finds the stages of a backbone whose maps are worth pooling: the outputs of its blocks, spread over its depth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.errors import InvalidConfig

STAGES = 7
"""Stages that are chosen of a backbone with more blocks."""

_BATCH = 2
_LEAST_POSITIONS = 4
_CONTAINERS = (nn.Sequential, nn.ModuleList)


@dataclass(frozen=True)
class _Output:
    """What a module returned: its tensor, and the number of positions of its map or of its tokens."""

    tensor: Tensor
    positions: int


def find_stages(backbone: nn.Module, images: Tensor, most: int = STAGES) -> tuple[str, ...]:
    """Choose the stages of a backbone, from one pass through it.

    Candidates are the blocks of the backbone: members of a `Sequential` or a `ModuleList` with a normalisation layer
    and two or more layers with kernels. Where there are none, such modules anywhere are candidates, then the other
    members that normalise, then any module that does. The outputs must be maps (batch, channels, height, width) or
    tokens (batch, tokens, channels).

    Args:
        backbone: in evaluation mode.
        images: square images that it accepts, float32 (2, channels, side, side).
        most: number of stages to choose at most.

    Returns:
        Names of submodules, in the order in which they run. The last block of each resolution is among them.

    Raises:
        InvalidConfig: no module returns maps or tokens.
    """
    outputs = _trace(backbone, images)
    modules = dict(backbone.named_modules())
    rules: tuple[Callable[[str], bool], ...] = (
        lambda name: _is_member(name, modules) and _kernels(modules[name]) >= 2,
        lambda name: _kernels(modules[name]) >= 2,
        lambda name: _is_member(name, modules),
        lambda _: True,
    )
    for rule in rules:
        found = [name for name in outputs if name and _normalises(modules[name]) and rule(name)]
        blocks = _outermost(found, {name: outputs[name].tensor for name in found if any(modules[name].children())})
        if len(blocks) > 1:
            return tuple(_spread(blocks, [outputs[name].positions for name in blocks], most))
    raise InvalidConfig(
        "no stages were found: no two modules of the backbone contain a normalisation layer and return maps (batch, "
        "channels, height, width) or tokens (batch, tokens, channels); name modules that do with --stage, or let the "
        "factory wrap them so that they do"
    )


def _trace(backbone: nn.Module, images: Tensor) -> dict[str, _Output]:
    """The outputs that are maps or tokens, by the name of the module, in the order in which the modules ended."""
    outputs: dict[str, _Output] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            outputs.pop(name, None)
            positions = _positions(output)
            if positions >= _LEAST_POSITIONS:
                outputs[name] = _Output(output, positions)

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in backbone.named_modules()]
    try:
        with torch.no_grad():
            backbone(images)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _positions(output: Any) -> int:
    """Pixels of square maps, or number of tokens; 0 for anything else, such as maps with the channels last."""
    shape = tuple(output.shape) if isinstance(output, Tensor) else ()
    if shape[:1] != (_BATCH,):
        return 0
    if len(shape) == 4:
        return shape[2] * shape[3] if shape[2] == shape[3] else 0
    return shape[1] if len(shape) == 3 else 0


def _is_member(name: str, modules: Mapping[str, nn.Module]) -> bool:
    return isinstance(modules[name.rpartition(".")[0]], _CONTAINERS)


def _kernels(module: nn.Module) -> int:
    """Convolutions, linear layers and other layers with a matrix."""
    return sum(parameter.ndim > 1 for parameter in module.parameters())


def _normalises(module: nn.Module) -> bool:
    """Whether the module has a normalisation layer, of torch or of anyone else's, or is one."""
    return any("norm" in type(part).__name__.lower() for part in module.modules())


def _outermost(found: Sequence[str], returned: Mapping[str, Tensor]) -> list[str]:
    """Candidates that lie in no other one. A candidate that returns what one inside returns is a mere container.

    Args:
        found: the candidates.
        returned: what the candidates that have modules inside returned.
    """
    blocks: list[str] = []
    for name in found:
        inner = [tensor for other, tensor in returned.items() if other.startswith(f"{name}.")]
        if not any(tensor is returned[name] for tensor in inner):
            blocks.append(name)
    return [name for name in blocks if not any(name.startswith(f"{other}.") for other in blocks)]


def _spread(blocks: Sequence[str], positions: Sequence[int], most: int) -> list[str]:
    """The last block of each resolution, the deepest first if there are too many; then blocks in the widest gaps."""
    last_of_resolution = {count: index for index, count in enumerate(positions)}
    chosen = sorted(last_of_resolution.values())[-most:]
    while len(chosen) < min(most, len(blocks)):
        width, end = max((end - start, end) for start, end in zip([-1, *chosen], chosen, strict=False))
        chosen = sorted([*chosen, end - (width + 1) // 2])
    return [blocks[index] for index in chosen]
