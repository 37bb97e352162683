"""Any number of versions for benchmarks: one is adapted, the others are at the same distance from the start.

Size and prediction cost of a version do not depend on its accuracy, so a thousand adaptations are unnecessary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.labelled_pngs import LabelledPngs, draw
from models.adaptation.adapt import Adapted, adapt_one
from models.checkpoint import Checkpoint, load_checkpoint
from models.images.preprocessing import decode, prepare
from models.inference.predict import fold_calibrated
from models.nets import Net
from models.task import Support
from models.weights import Weights

N_WAY, N_SHOT = 5, 10


@dataclass(frozen=True, slots=True)
class Made:
    """A start, a version of it, and images that it was not adapted on.

    Attributes:
        checkpoint: the start.
        net: its architecture.
        adapted: the version.
        images: float32 (count, channels, side, side), prepared.
    """

    checkpoint: Checkpoint
    net: Net
    adapted: Adapted
    images: Tensor

    def folded(self) -> dict[str, Tensor]:
        """Folded weights of the version."""
        return fold_calibrated(self.adapted.kept(), self.adapted.statistics)

    def others(self, count: int, seed: int = 0) -> Iterator[Adapted]:
        """Other versions: the update of this one, permuted."""
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count):
            weights = {name: self._shuffled(name, tensor, generator) for name, tensor in self.adapted.weights.items()}
            means = _shuffle(self.adapted.means, generator)
            yield Adapted(weights, self.adapted.statistics, (), self.adapted.support_accuracy, means)

    def _shuffled(self, name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
        start = self.checkpoint.weights.get(name)
        return _shuffle(tensor, generator) if start is None else start + _shuffle(tensor - start, generator)


def folded(adapted: Adapted) -> Weights:
    """Folded weights of a version."""
    return fold_calibrated(adapted.kept(), adapted.statistics)


def made(checkpoint: str, images: LabelledPngs, seed: int, queries: int = 20) -> Made:
    """Adapt one client, 5 classes x 10 images, and keep up to `queries` further images per class."""
    loaded = load_checkpoint(checkpoint)
    net = loaded.build_net().eval()
    spec = loaded.net_config.image
    task = draw(images, np.random.default_rng(seed), N_WAY, N_SHOT, queries)
    classes = sorted(task.queries)
    labels = torch.tensor([classes.index(file.label) for file in task.support])
    support = Support(prepare([decode(file.content) for file in task.support], spec), labels, N_WAY)
    adapted = adapt_one(net, loaded.weights, support, loaded.recipe, seed)
    others = [decode(content) for contents in task.queries.values() for content in contents]
    return Made(loaded, net, adapted, prepare(others, spec))


def _shuffle(tensor: Tensor, generator: torch.Generator) -> Tensor:
    return tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].view(tensor.shape)
