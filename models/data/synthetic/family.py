"""Parametric families of surfaces and defects: a class is a region of the unit cube, an image a point in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from models.data.synthetic.canvas import Canvas, Draws, Field

Drawn = TypeVar("Drawn")
Parameters = Mapping[str, Field]

STEADY = 0.035
"""Deviation, in the unit cube, of a parameter that is nearly constant within a class."""


@dataclass(frozen=True)
class Range:
    """Range of a parameter, linear or logarithmic."""

    low: float
    high: float
    log: bool = False

    def at(self, position: Field) -> Field:
        """The value at a position in [0, 1]; positions outside are clipped."""
        position = np.clip(position, 0.0, 1.0)
        if self.log:
            value = self.low * np.exp(position * np.float32(np.log(self.high / self.low)))
        else:
            value = self.low + position * (self.high - self.low)
        return np.asarray(value, dtype=np.float32)


@dataclass(frozen=True)
class Family(Generic[Drawn]):
    """A family of surfaces or marks.

    Attributes:
        name: readable name.
        ranges: range of each parameter.
        draw: draws on a canvas, with parameters of shape (images, 1, 1).
    """

    name: str
    ranges: Mapping[str, Range]
    draw: Callable[[Canvas, Parameters], Drawn]


@dataclass(frozen=True)
class Look(Generic[Drawn]):
    """A member of a family: a region of its unit cube.

    Attributes:
        family: the family.
        point: centre of the region, a position in [0, 1] per parameter.
        jitter: deviation of each parameter between images, in the unit cube. Parameters with little jitter define the
            class.
    """

    family: Family[Drawn]
    point: Mapping[str, float]
    jitter: Mapping[str, float]

    def moved(self, generator: np.random.Generator, distance: float) -> Look[Drawn]:
        """Another member of the family, about ``distance`` away in each parameter, reflected at the cube's walls."""
        shift = {name: distance * generator.uniform(0.5, 1.5) * generator.choice((-1, 1)) for name in self.point}
        return replace(self, point={name: _reflect(self.point[name] + shift[name]) for name in self.point})

    def draw(self, canvas: Canvas) -> Drawn:
        """Draw the look with jittered parameters."""
        return self.family.draw(canvas, self._parameters(canvas.draws))

    def _parameters(self, draws: Draws) -> Parameters:
        return {
            name: values.at(self.point[name] + draws.normal(self.jitter[name]))
            for name, values in self.family.ranges.items()
        }


def steady_look(family: Family[Drawn], point: Mapping[str, float], jitter: float = STEADY) -> Look[Drawn]:
    """A look with the same jitter for all parameters."""
    return Look(family, point, dict.fromkeys(point, jitter))


def new_look(
    family: Family[Drawn], generator: np.random.Generator, jitters: Sequence[float] = (STEADY,)
) -> Look[Drawn]:
    """Draw a member of a family; the jitter of each parameter is drawn from ``jitters``."""
    point = {name: float(generator.uniform()) for name in family.ranges}
    return Look(family, point, {name: float(generator.choice(jitters)) for name in family.ranges})


def _reflect(position: float) -> float:
    folded = abs(position) % 2.0
    return 2.0 - folded if folded > 1.0 else folded
