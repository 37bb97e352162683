"""Procedural textures as a dataset: product lines, their classes, and images drawn on demand.

A class is determined by (seed, class index), an image by (seed, class index, image index), regardless of other images.
There are three kinds of product line. On a *defects* line, all classes share one surface and differ in the defect. On a
*grades* line, they share the family of surface and differ in its parameters. On a *surfaces* line, they share only
camera and pose.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from models.data.class_dataset import ClassDataset
from models.data.synthetic.camera import Bytes, Camera, Tone, new_camera, new_tint, new_tone, photograph
from models.data.synthetic.canvas import Canvas, Draws, Field, new_canvas, noise
from models.data.synthetic.defects import DEFECTS, Defect, draw_defect, new_defect, new_distractor, new_mark
from models.data.synthetic.family import STEADY, Family, Look, new_look
from models.data.synthetic.surfaces import QUIET, SURFACES
from models.errors import DatasetUnavailable

TEXTURES_VERSION = 2
"""Increased whenever the same seed would give other images; part of the training record."""

CLASSES_PER_LINE = 8
_LINE, _IMAGE = 1, 2  # separate random streams per purpose


class Textures(ClassDataset):
    """Product lines of eight classes; class ``i`` belongs to line ``i // classes_per_line``.

    Args:
        side: height and width in pixels, from 16.
        channels: 1 or 3.
        seed: seed of all classes; datasets with different seeds share none.
        lines: number of product lines; a larger dataset starts with the same lines.
        images_per_class: number of images that ``images`` returns.
        kept_classes: classes to keep in memory (20 grey images of 64 pixels take 80 kB).
    """

    classes_per_line = CLASSES_PER_LINE

    def __init__(
        self,
        side: int = 64,
        channels: int = 1,
        seed: int = 0,
        lines: int = 256,
        images_per_class: int = 20,
        kept_classes: int = 2048,
    ) -> None:
        if channels not in (1, 3) or side < 16 or lines < 1 or images_per_class < 1:
            raise DatasetUnavailable(
                f"textures got side {side}, {channels} channels, {lines} lines, {images_per_class} images per class; "
                "allowed: side from 16, 1 or 3 channels, and at least one line and one image"
            )
        self.name = f"textures seed {seed}"
        self.side, self.channels, self.seed, self.lines = side, channels, seed, lines
        self.images_per_class = images_per_class
        self._kept_classes = kept_classes
        self._kept: OrderedDict[int, Tensor] = OrderedDict()
        self._parts: dict[int, tuple[Part, ...]] = {}
        width = len(str(lines - 1))
        self.class_names = tuple(
            f"line{line:0{width}d}/class{index}" for line in range(lines) for index in range(self.classes_per_line)
        )

    def images(self, class_index: int) -> Tensor:
        """The first ``images_per_class`` images of a class: uint8 (count, channels, side, side)."""
        if class_index in self._kept:
            self._kept.move_to_end(class_index)
            return self._kept[class_index]
        drawn = self.images_at(class_index, range(self.images_per_class))
        self._kept[class_index] = drawn
        if len(self._kept) > self._kept_classes:
            self._kept.popitem(last=False)
        return drawn

    def images_at(self, class_index: int, image_indexes: Sequence[int]) -> Tensor:
        """Draw images of a class by index, from 0 without limit: uint8 (count, channels, side, side)."""
        if not image_indexes:
            return torch.empty(0, self.channels, self.side, self.side, dtype=torch.uint8)
        part = self.part(class_index)
        seeds = [np.random.SeedSequence((self.seed, _IMAGE, class_index, index)) for index in image_indexes]
        draws = Draws([np.random.Generator(np.random.PCG64(seed)) for seed in seeds])
        return torch.from_numpy(render(part, draws, self.side, self.channels))

    def part(self, class_index: int) -> Part:
        """Appearance of a class."""
        line = self.product_line(class_index)
        if line not in self._parts:
            generator = np.random.default_rng(np.random.SeedSequence((self.seed, _LINE, line)))
            self._parts[line] = product_line(generator, self.classes_per_line)
        return self._parts[line][class_index % self.classes_per_line]

    def count(self, class_index: int) -> int:
        """Number of images of one class."""
        return self.images_per_class

    def product_line(self, class_index: int) -> int:
        """Product line of a class."""
        if not 0 <= class_index < len(self):
            raise DatasetUnavailable(f"{self.name} has classes 0 to {len(self) - 1}; there is no class {class_index}")
        return class_index // self.classes_per_line


_KINDS = ("defects", "grades", "surfaces")
_KIND_SHARES = (0.6, 0.13, 0.27)
_PAIR_SHARE = 0.2  # share of defects that occur with another, fainter one


@dataclass(frozen=True)
class Pose:
    """Pose of parts under the camera: mean angle, its jitter in radians, and the jitter of the zoom."""

    angle: float
    angle_jitter: float
    zoom_jitter: float


@dataclass(frozen=True)
class Variation:
    """Irrelevant variation between the parts of one line.

    Attributes:
        mottle: maximum strength of a random cloud over the surface, relative to the surface's contrast.
        contrast_spread: deviation of the log contrast of the surface.
        distractor: a faint mark on some parts, or None.
        distractor_share: share of parts with the distractor.
    """

    mottle: float
    contrast_spread: float
    distractor: Defect | None = None
    distractor_share: float = 0.0


@dataclass(frozen=True)
class Part:
    """Appearance of one class.

    Attributes:
        name: readable name.
        layers: superimposed surfaces, with weights of unit power.
        tone: brightness, contrast and tint of the surface.
        defects: none, one, or two that occur together.
        variation: irrelevant variation between parts.
        pose: pose under the camera.
        camera: the camera.
    """

    name: str
    layers: tuple[tuple[Look[Field], float], ...]
    tone: Tone
    defects: tuple[Defect, ...]
    variation: Variation
    pose: Pose
    camera: Camera


def product_line(generator: np.random.Generator, classes: int) -> tuple[Part, ...]:
    """Draw a product line.

    Args:
        generator: generator of this line.
        classes: number of classes.
    """
    kind = generator.choice(_KINDS, p=_KIND_SHARES)
    tone = new_tone(generator)
    layers = _new_layers(generator, quiet=kind == "defects")
    pose, camera = _new_pose(generator), new_camera(generator)
    base = Part("sound", layers, tone, (), _new_chance(tone, generator), pose, camera)
    if kind == "defects":
        return _defects_line(base, generator, classes)
    if kind == "grades":
        return tuple(_grade(base, generator) for _ in range(classes))
    return tuple(_other_surface(base, generator) for _ in range(classes))


def sound_part(generator: np.random.Generator) -> Part:
    """Draw a sound part with a quiet surface, little variation between parts and no distractors."""
    look = new_look(QUIET[int(generator.integers(len(QUIET)))], generator)
    pose = Pose(float(generator.choice((0.0, np.pi / 2))), angle_jitter=0.1, zoom_jitter=0.1)
    variation = Variation(mottle=0.3, contrast_spread=0.1)
    return Part("sound", ((look, 1.0),), new_tone(generator), (), variation, pose, new_camera(generator))


def render(part: Part, draws: Draws, side: int, channels: int) -> Bytes:
    """Render images of a class, one per generator in ``draws``: uint8 (images, channels, side, side)."""
    pose, variation = part.pose, part.variation
    angle = pose.angle + draws.uniform(-pose.angle_jitter, pose.angle_jitter)
    zoom = np.exp(draws.uniform(-pose.zoom_jitter, pose.zoom_jitter))
    canvas = new_canvas(draws, side, angle, zoom)
    surface = sum(weight * look.draw(canvas) for look, weight in part.layers)
    surface = surface * np.exp(draws.normal(variation.contrast_spread)) + _mottle(canvas, variation)
    brightness = np.asarray(part.tone.level + part.tone.contrast * surface, dtype=np.float32)
    if variation.distractor is not None:
        angle_jitter, _ = draw_defect(variation.distractor, canvas, part.camera.light_angle)
        brightness += angle_jitter * (draws.uniform(0, 1) < variation.distractor_share)
    tints = np.asarray(part.tone.tint, dtype=np.float32)[None, :, None, None]
    for defect in part.defects:
        change, cover = draw_defect(defect, canvas, part.camera.light_angle)
        brightness += change
        tints = tints + (np.asarray(defect.tint, dtype=np.float32)[None, :, None, None] - tints) * cover[:, None]
    return photograph(canvas, brightness, tints, part.camera, channels)


def _mottle(canvas: Canvas, variation: Variation) -> Field:
    """A cloud of random size and strength per image: (images, side, side), relative to the contrast."""
    coarse = np.asarray(np.exp(canvas.draws.uniform(1.4, 4.1)), dtype=np.float32)  # 4 to 60 units
    fine = np.asarray(coarse / 16, dtype=np.float32)
    cloud = noise(canvas, canvas.draws.uniform(0.5, 2.5), coarse, fine, canvas.draws.uniform(1, 4))
    return np.asarray(cloud * canvas.draws.uniform(0, variation.mottle), dtype=np.float32)


def _new_pose(generator: np.random.Generator) -> Pose:
    angle = generator.choice((0.0, np.pi / 2, generator.uniform(0, np.pi)))
    angle_jitter = generator.choice((0.05, 0.2, np.pi), p=(0.5, 0.3, 0.2))
    return Pose(float(angle), float(angle_jitter), float(generator.uniform(0.03, 0.2)))


def _new_chance(tone: Tone, generator: np.random.Generator) -> Variation:
    return Variation(
        mottle=float(generator.uniform(0.0, 1.0)),
        contrast_spread=float(generator.uniform(0.05, 0.3)),
        distractor=new_distractor(DEFECTS, tone, generator) if generator.uniform() < 0.5 else None,
        distractor_share=float(generator.uniform(0.1, 0.6)),
    )


def _new_layers(generator: np.random.Generator, *, quiet: bool) -> tuple[tuple[Look[Field], float], ...]:
    """Draw one to three superimposed surfaces, strongest first; with ``quiet``, mostly quiet families."""
    count = int(generator.choice((1, 2, 3), p=(0.45, 0.4, 0.15)))
    weights = np.array([1.0, *generator.uniform(0.2, 0.8, count - 1)])
    weights /= np.sqrt((weights**2).sum())
    families = QUIET if quiet and generator.uniform() < 0.6 else SURFACES
    jitters = (STEADY, float(generator.choice((STEADY, 0.1, 0.2)))) if quiet else (STEADY,)
    looks = [new_look(families[int(generator.integers(len(families)))], generator, jitters) for _ in range(count)]
    return tuple((look, float(weight)) for look, weight in zip(looks, weights, strict=True))


def _defects_line(base: Part, generator: np.random.Generator, classes: int) -> tuple[Part, ...]:
    """One surface with different defects; some classes share a defect family and differ in its parameters."""
    order = generator.permutation(len(DEFECTS))
    parts = [base] if generator.uniform() < 0.75 else []
    looks: list[Look[Field]] = []
    while len(parts) < classes:
        if looks and generator.uniform() < 0.2:
            look = looks[int(generator.integers(len(looks)))].moved(generator, 0.4)
        else:
            look = new_mark(DEFECTS[int(order[len(looks) % len(order)])], generator)
        looks.append(look)
        parts.append(replace(base, name=look.family.name, defects=_with_companion(look, base.tone, generator)))
    return tuple(parts)


def _grade(base: Part, generator: np.random.Generator) -> Part:
    """The surface of ``base`` with other parameters, and often another tone."""
    layers = tuple((look.moved(generator, 0.25), weight) for look, weight in base.layers)
    tone = base.tone if generator.uniform() < 0.4 else _shifted(base.tone, generator)
    return replace(base, name=layers[0][0].family.name, layers=layers, tone=tone)


def _other_surface(base: Part, generator: np.random.Generator) -> Part:
    """Another surface and tone, sometimes with a defect, under the same camera and pose."""
    layers, tone = _new_layers(generator, quiet=False), _shifted(base.tone, generator)
    defects: tuple[Defect, ...] = ()
    if generator.uniform() < 0.35:
        defects = _with_companion(new_mark(_any_defect(generator), generator), tone, generator)
    return replace(base, name=layers[0][0].family.name, layers=layers, tone=tone, defects=defects)


def _with_companion(look: Look[Field], tone: Tone, generator: np.random.Generator) -> tuple[Defect, ...]:
    """The defect, and sometimes a second one that always occurs with it."""
    defect = new_defect(look, tone, generator)
    if generator.uniform() >= _PAIR_SHARE:
        return (defect,)
    companion = new_defect(new_mark(_any_defect(generator), generator), tone, generator)
    return (replace(companion, depth=0.6 * companion.depth), defect)


def _any_defect(generator: np.random.Generator) -> Family[Field]:
    return DEFECTS[int(generator.integers(len(DEFECTS)))]


def _shifted(tone: Tone, generator: np.random.Generator) -> Tone:
    level = float(np.clip(tone.level + generator.normal(0, 0.1), 0.15, 0.85))
    contrast = float(np.clip(tone.contrast * np.exp(generator.normal(0, 0.4)), 0.01, 0.25))
    return Tone(level, contrast, tone.tint if generator.uniform() < 0.5 else new_tint(generator))
