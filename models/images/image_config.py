"""The input format of a net. This module does not import torch, so that devices predict without it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, get_args

from models.errors import InvalidConfig

PREPROCESSING_VERSION: Final = 1

Contrast = Literal["none", "local", "regional", "imagenet", "torchvision"]
"""How the values of an image are scaled; see `ImageConfig`."""

STATISTICS_OF_IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of each channel, as torchvision and timm use them."""

REC601_LUMA: Final = (0.299, 0.587, 0.114)
CONTRAST_LIMIT: Final = 5.0
_MAX_SIDE = 256
SHAPE_UNIT = 32
"""Sides of images that keep their aspect ratio are multiples of it, as is the stride of usual backbones."""


@dataclass(frozen=True)
class ContrastParameters:
    """Parameters of contrast normalisation.

    Larger floors preserve more of the contrast between weak and strong marks.

    Attributes:
        sigma_of_side: sigma of the Gaussian neighbourhood, as a share of the side.
        floor: added to the local deviation, in squares; full scale is 1.
        floor_of_image: share of the image's deviation added to the local deviation, in squares.
    """

    sigma_of_side: float
    floor: float
    floor_of_image: float


CONTRASTS: Final = {"local": ContrastParameters(1 / 8, 0.005, 0.2), "regional": ContrastParameters(0.3, 0.03, 1.0)}


@dataclass(frozen=True)
class ImageConfig:
    """Input format of a net.

    Attributes:
        channels: 1 (grey) or 3 (colour).
        side: height and width in pixels, 16 to 256.
        contrast: "none" keeps values in [0, 1]. "local" subtracts a Gaussian local mean and divides by the local
            deviation (subtractive and divisive normalisation, Jarrett et al. 2009, section 2), clipped to [-5, 5].
            "regional" does the same over a wider neighbourhood and preserves more contrast between marks. "imagenet"
            gives (value - 127) / 128 of the 8-bit values, as the published EfficientNet-Lite was trained. "torchvision"
            scales to [0, 1], subtracts ImageNet's mean and divides by its deviation, channel by channel, as most
            published nets were trained; in colour only.
        fit: "stretch" makes every image a square of `side`. "area" keeps about the aspect ratio: the image gets the one
            of `shapes` that is most like its own.
    """

    channels: int
    side: int
    contrast: Contrast = "none"
    fit: Literal["stretch", "area"] = "stretch"

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise InvalidConfig(f"ImageConfig.channels is {self.channels!r}; allowed: 1 (grey) or 3 (colour)")
        if not 16 <= self.side <= _MAX_SIDE:
            raise InvalidConfig(f"ImageConfig.side is {self.side!r}; allowed: integers from 16 to {_MAX_SIDE}")
        if self.contrast not in get_args(Contrast):
            allowed = ", ".join(get_args(Contrast))
            raise InvalidConfig(f"ImageConfig.contrast is {self.contrast!r}; allowed: {allowed}")
        if self.contrast == "torchvision" and self.channels != 3:
            raise InvalidConfig("ImageConfig.contrast is 'torchvision' with 1 channel; allowed then: 3 channels")
        if self.fit not in ("stretch", "area"):
            raise InvalidConfig(f"ImageConfig.fit is {self.fit!r}; allowed: stretch, area")
        if self.fit == "area" and self.side % SHAPE_UNIT:
            raise InvalidConfig(
                f"ImageConfig.side is {self.side} with fit area; allowed then: multiples of {SHAPE_UNIT}"
            )

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """The (height, width) that images can get: the square first, then ever longer ones of about the same area."""
        units = self.side // SHAPE_UNIT
        if self.fit == "stretch" or units < 3:
            return ((self.side, self.side),)
        wide = [(short, round(units**2 / short)) for short in range(units - 1, 1, -1)]
        sides = [(units, units)] + [shape for pair in wide for shape in (pair, pair[::-1])]
        return tuple((height * SHAPE_UNIT, width * SHAPE_UNIT) for height, width in sides)

    def shape_for(self, height: int, width: int) -> tuple[int, int]:
        """The shape that an image of this height and width gets: the one whose aspect ratio is nearest to its own."""
        aspect = math.log(width / height)
        return min(self.shapes, key=lambda shape: abs(math.log(shape[1] / shape[0]) - aspect))

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON data, without `fit` at its default: it was added later, and digests must not change."""
        data = asdict(self)
        return data if self.fit != "stretch" else {name: value for name, value in data.items() if name != "fit"}
