"""A family of looks as a box of parameters: a class is a region of the unit cube, an image a point in it.

This module refuses to know what any family draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from models.data.synthetic.canvas import Canvas, Draws, Field

Drawn = TypeVar("Drawn")
Parameters = Mapping[str, Field]

STEADY = 0.035
"""Deviation, in the unit cube, of a parameter that is meant to hold still."""


@dataclass(frozen=True)
class Range:
    """From where to where a parameter goes; ``log`` spreads it evenly in its logarithm."""

    low: float
    high: float
    log: bool = False

    def at(self, position: Field) -> Field:
        """The value at a position in [0, 1]."""
        position = np.clip(position, 0.0, 1.0)
        if self.log:
            value = self.low * np.exp(position * np.float32(np.log(self.high / self.low)))
        else:
            value = self.low + position * (self.high - self.low)
        return np.asarray(value, dtype=np.float32)


@dataclass(frozen=True)
class Family(Generic[Drawn]):
    """A kind of look.

    Attributes:
        name: a plain word for it.
        ranges: its parameters.
        draw: draws it on a canvas with parameters of shape (images, 1, 1).
    """

    name: str
    ranges: Mapping[str, Range]
    draw: Callable[[Canvas, Parameters], Drawn]


@dataclass(frozen=True)
class Look(Generic[Drawn]):
    """A member of a family: a region of its unit cube.

    Attributes:
        family: what is drawn.
        point: the middle of the region, a position in [0, 1] for each parameter.
        jitter: how far each parameter strays from image to image, as a deviation in the unit cube. A parameter that
            strays far means nothing in this class; one that holds still is what makes it.
    """

    family: Family[Drawn]
    point: Mapping[str, float]
    jitter: Mapping[str, float]

    def moved(self, generator: np.random.Generator, distance: float) -> Look[Drawn]:
        """Another member of the family, each parameter about ``distance`` away, reflected at the cube's walls."""
        shift = {name: distance * generator.uniform(0.5, 1.5) * generator.choice((-1, 1)) for name in self.point}
        return replace(self, point={name: _reflect(self.point[name] + shift[name]) for name in self.point})

    def draw(self, canvas: Canvas) -> Drawn:
        """Draws the look, every parameter straying from image to image."""
        return self.family.draw(canvas, self._parameters(canvas.draws))

    def _parameters(self, draws: Draws) -> Parameters:
        return {
            name: values.at(self.point[name] + draws.normal(self.jitter[name]))
            for name, values in self.family.ranges.items()
        }


def steady_look(family: Family[Drawn], point: Mapping[str, float], jitter: float = STEADY) -> Look[Drawn]:
    """A look whose parameters all stray equally little."""
    return Look(family, point, dict.fromkeys(point, jitter))


def new_look(
    family: Family[Drawn], generator: np.random.Generator, jitters: Sequence[float] = (STEADY,)
) -> Look[Drawn]:
    """Draws a member of a family; how far each parameter strays is drawn from ``jitters``."""
    point = {name: float(generator.uniform()) for name in family.ranges}
    return Look(family, point, {name: float(generator.choice(jitters)) for name in family.ranges})


def _reflect(position: float) -> float:
    folded = abs(position) % 2.0
    return 2.0 - folded if folded > 1.0 else folded
