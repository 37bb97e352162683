"""Clinics for the federated benchmarks: each has characters of its own (Omniglot) and a scanner of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import InnerLoopConfig, NetConfig
from models.data.class_dataset import ArrayDataset, ClassDataset
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.data.omniglot import open_omniglot
from models.errors import DatasetUnavailable
from models.images.preprocessing import ImageConfig
from models.task import Support, Task

CHARACTERS: Final = 16
"""Classes of a clinic. No two clinics share one."""

IMAGE: Final = ImageConfig(channels=1, side=28, contrast="none")
NET: Final = NetConfig("conv4", IMAGE, width=16)
RECIPE: Final = InnerLoopConfig(steps=5, learning_rate=0.1, batch_size=10)
"""The inner loop of a round."""

SERVE: Final = InnerLoopConfig(steps=5, learning_rate=0.03, batch_size=25, clip_norm=10.0)
"""The inner loop that a new clinic adapts with."""

TRAINING: Final = EpisodeShape(n_way=8, n_shot=5, anchor_shots=1)
"""What a clinic learns from in one round."""


@dataclass(frozen=True)
class Scanner:
    """A scanner: turns, stretches and shears every image alike, with its own contrast, haze and noise.

    Attributes:
        affine: (2, 3), where each pixel of the scan comes from.
        contrast: share of the ink's darkness that remains.
        haze: darkness of the background, 0 to 1.
        noise: deviation of the sensor's noise, full scale 1.
    """

    affine: Tensor
    contrast: float
    haze: float
    noise: float

    @classmethod
    def drawn(cls, generator: torch.Generator) -> Scanner:
        """Draw a scanner."""
        angle, zoom, shear, contrast, haze, noise = torch.rand(6, generator=generator).tolist()
        turn, scale = torch.tensor(0.6 * angle - 0.3), 0.9 + 0.2 * zoom
        across = torch.stack([scale * turn.cos(), 0.3 * shear - 0.15 - scale * turn.sin(), torch.zeros(())])
        down = torch.stack([scale * turn.sin(), scale * turn.cos(), torch.zeros(())])
        return cls(torch.stack([across, down]), 0.5 + 0.5 * contrast, 0.25 * haze, 0.08 * noise)

    def scan(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Scan uint8 (count, 1, side, side)."""
        ink = 1 - images.float() / 255
        grid = F.affine_grid(self.affine.expand(len(ink), 2, 3), list(ink.shape), align_corners=False)
        moved = F.grid_sample(ink, grid, align_corners=False)
        dark = self.haze + (1 - self.haze) * self.contrast * moved
        seen = 1 - dark + self.noise * torch.randn(dark.shape, generator=generator)
        return (255 * seen).round().clamp(0, 255).to(torch.uint8)


def make_clinics(source: ClassDataset, count: int, seed: int = 0) -> list[ArrayDataset]:
    """Draw clinics from a dataset; a smaller number gives the first ones of a larger.

    Raises:
        DatasetUnavailable: the dataset has too few classes.
    """
    if count * CHARACTERS > len(source):
        raise DatasetUnavailable(f"{source.name} has {len(source)} classes; {count} clinics need {count * CHARACTERS}")
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed)).tolist()
    clinics = []
    for number in range(count):
        generator = torch.Generator().manual_seed((seed << 32) + number)
        scanner = Scanner.drawn(generator)
        classes = order[number * CHARACTERS : (number + 1) * CHARACTERS]
        images = [scanner.scan(source.images(index), generator) for index in classes]
        clinics.append(ArrayDataset(f"clinic {number}", [source.class_names[index] for index in classes], images))
    return clinics


def open_clinics(data_root: Path, cache: Path, count: int) -> list[ArrayDataset]:
    """Draw clinics from Omniglot."""
    return make_clinics(open_omniglot(data_root, cache, IMAGE), count)


class PooledClinics(ArrayDataset):
    """All classes of several clinics in one dataset, where each clinic is a product line."""

    def __init__(self, clinics: Sequence[ClassDataset]) -> None:
        members = [(clinic, index) for clinic in clinics for index in range(len(clinic))]
        names = [f"{clinic.name}/{clinic.class_names[index]}" for clinic, index in members]
        super().__init__("pooled clinics", names, [clinic.images(index) for clinic, index in members])
        self._lines = [number for number, clinic in enumerate(clinics) for _ in range(len(clinic))]

    def product_line(self, class_index: int) -> int:
        """The clinic of a class."""
        return self._lines[class_index]


class NewClinics:
    """Episodes of clinics that took part in no round: 5-way, 10 queries a class.

    Args:
        clinics: episode i is of clinic i modulo their number.
        n_shot: support images per class.
    """

    def __init__(self, clinics: Sequence[ClassDataset], n_shot: int) -> None:
        self._samplers = [EpisodeSampler(clinic, EpisodeShape(5, n_shot, 10), IMAGE) for clinic in clinics]

    def task(self, seed: int) -> Task:
        """Return the episode of a seed."""
        return self._samplers[seed % len(self._samplers)].task(seed)


def training_supports(clinics: Sequence[ClassDataset], round_number: int) -> list[Support]:
    """What each clinic learns from in a round: a task of its own classes."""
    samplers = [EpisodeSampler(clinic, TRAINING, IMAGE) for clinic in clinics]
    return [sampler.support((round_number << 16) + client) for client, sampler in enumerate(samplers)]
