"""Explanations: where in an image the adapted net saw what speaks for a class, as a small map.

The gradient of a score with respect to the maps of a net, times the maps, summed over the channels, tells how much each
place contributes to the score (gradient times activation: Selvaraju et al. 2017, Grad-CAM, arXiv:1610.02391, without
averaging the gradient over the image). The score is the difference between the logits of the class and of the class
that comes nearest to it.
"""

from __future__ import annotations

import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from models.errors import ExplanationUnsupported
from models.images.preprocessing import ImageConfig, prepare
from models.nets import BackboneNet, Net, call_net, heads
from models.weights import Weights

LONGEST_SIDE = 24
"""Cells along the longer side of a map."""


class Explainer(ABC):
    """Explains the predictions of versions of one net. Thread-safe."""

    def __init__(self, config: ImageConfig) -> None:
        self._config = config

    def explain(self, folded: Weights, image: Tensor, label: int) -> Tensor:
        """Show where an image has what speaks for a class against the class with the next best score.

        Args:
            folded: weights of a version, from `fold_calibrated`.
            image: canonical image, uint8 (1 or 3, height, width).
            label: index of the class.

        Returns:
            (rows, columns) of the image's aspect ratio, from 0 to 1, which is the most; zeros if nothing speaks for it.
        """
        device = folded[heads.WEIGHT].device
        with torch.enable_grad():
            contributions = self._contributions(folded, prepare([image], self._config).to(device), label)
        grid = _grid(*image.shape[1:])
        total = torch.stack([_resampled(places, grid) for places in contributions]).sum(0).cpu()
        most = float(total.max())
        return total / most if most > 0 else total

    @abstractmethod
    def _contributions(self, folded: Weights, image: Tensor, label: int) -> Sequence[Tensor]:
        """Contribution of each place of each map to the difference of scores: (height, width) each, any sign."""


class BackboneExplainer(Explainer):
    """For nets with a frozen backbone: gradient times deviation from the mean, of the maps of all stages.

    The gradient passes through pooled features and head alone, so the backbone runs forward only.

    Raises:
        ExplanationUnsupported: no stage returns maps.
    """

    def __init__(self, net: BackboneNet, device: torch.device) -> None:
        super().__init__(net.config.image)
        self._net = net
        image = net.config.image
        outputs = self._outputs(torch.zeros(1, image.channels, image.side, image.side, device=device))
        if not any(maps.ndim == 4 for maps in outputs):
            raise ExplanationUnsupported(
                "the stages of the model's backbone return tokens and not maps, so a prediction cannot be traced to "
                "places in the image; leave out explain=true"
            )

    def _outputs(self, images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return self._net.stage_outputs(images)

    def _contributions(self, folded: Weights, image: Tensor, label: int) -> Sequence[Tensor]:
        outputs = [maps.detach().requires_grad_() for maps in self._outputs(image)]
        embedded = self._net.embed_stages(image, outputs)
        single = {name: tensor[None] for name, tensor in folded.items()}
        score = _score(single, call_net(self._net, single, embedded[None]), label)
        gradients = torch.autograd.grad(score, outputs)
        return [
            (gradient * (maps.detach() - maps.detach().mean((2, 3), keepdim=True))).sum(1)[0]
            for gradient, maps in zip(gradients, outputs, strict=True)
            if maps.ndim == 4
        ]


class StageExplainer(Explainer):
    """For nets that adapt every weight: gradient times activation of the last stage's maps.

    Raises:
        ExplanationUnsupported: the net has no stages.
    """

    def __init__(self, net: Net) -> None:
        super().__init__(net.config.image)
        if not net.stage_names:
            raise ExplanationUnsupported(
                f"the model's net {net.config.kind!r} names no stages, so a prediction cannot be traced to places in "
                "the image; leave out explain=true"
            )
        self._net = copy.deepcopy(net)
        self._known = {name for name, _ in self._net.named_modules()}
        self._net.get_submodule(net.stage_names[-1]).register_forward_hook(self._keep)
        self._lock = threading.Lock()
        self._maps: list[Tensor] = []

    def _keep(self, _module: Any, _inputs: Any, output: Any) -> None:
        self._maps.append(output if isinstance(output, Tensor) else output[0])

    def _contributions(self, folded: Weights, image: Tensor, label: int) -> Sequence[Tensor]:
        own = {name: tensor for name, tensor in folded.items() if name.rpartition(".")[0] in self._known}
        with self._lock:
            self._maps.clear()
            features = functional_call(self._net, own, (image.requires_grad_(),))
            (maps,) = self._maps
        single = {name: tensor[None] for name, tensor in folded.items() if name.startswith("head.")}
        (gradient,) = torch.autograd.grad(_score(single, features[None], label), maps)
        return [(gradient * maps.detach()).sum(1)[0]]


def explainer_for(net: Net, device: torch.device) -> Explainer:
    """Return the explainer of a net. Raises ExplanationUnsupported."""
    return BackboneExplainer(net, device) if isinstance(net, BackboneNet) else StageExplainer(net)


def _score(single: Weights, features: Tensor, label: int) -> Tensor:
    """The logit of a class minus the largest of the others, for features (1, 1, feature_count)."""
    logits = heads.logits(single, features)[0, 0]  # (n_way,)
    others = torch.cat([logits[:label], logits[label + 1 :]])
    return logits[label] - others.max()


def _grid(height: int, width: int) -> tuple[int, int]:
    scale = LONGEST_SIDE / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resampled(places: Tensor, grid: tuple[int, int]) -> Tensor:
    """What speaks for the class, on a grid. Maps of any number of places count by their total contribution."""
    density = places.clamp(min=0) * places.numel()
    return F.interpolate(density[None, None], grid, mode="bilinear", align_corners=False, antialias=True)[0, 0]
