"""Images of the demo client: one procedural product line with the classes clean, pit, scratch and stain."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from models.data.synthetic.camera import Camera, Tone
from models.data.synthetic.canvas import Draws
from models.data.synthetic.defects import DEFECTS, Defect
from models.data.synthetic.family import steady_look
from models.data.synthetic.surfaces import SURFACES
from models.data.synthetic.textures import Part, Pose, Variation, render

SIDE = 128
_GREY = (1.0, 1.0, 1.0)
_SURFACE = {"slope": 0.45, "coarse": 0.5, "fine": 0.3, "stretch": 0.3}
_FLAWS: dict[str, tuple[str, float, dict[str, float]]] = {
    "scratch": ("scratch", 0.22, {"tilt": 0.7, "length": 0.6, "width": 0.45, "number": 0.3}),
    "pit": ("pit", -0.3, {"radius": 0.5, "rim": 0.5, "number": 0.4}),
    "stain": ("stain", -0.14, {"flat": 0.4, "size": 0.5, "softness": 0.3, "border": 0.3}),
}


@dataclass(frozen=True)
class LabelledImage:
    """A labelled PNG file, as a client would upload it."""

    label: str
    file_name: str
    content: bytes


@dataclass(frozen=True)
class Demo:
    """Images of the demo client.

    Attributes:
        support: labelled images to adapt on, class by class.
        queries: further images of the same classes.
    """

    support: tuple[LabelledImage, ...]
    queries: tuple[LabelledImage, ...]


def demo_samples(seed: int = 0, n_shot: int = 10, n_query: int = 3) -> Demo:
    """Draw the demo images: grey PNGs of 128 pixels.

    Args:
        seed: seed of the images; the appearance of the classes is fixed.
        n_shot: support images per class.
        n_query: query images per class.
    """
    support: list[LabelledImage] = []
    queries: list[LabelledImage] = []
    for class_index, (label, part) in enumerate(sorted(_parts().items())):
        pictures = _pngs(part, (seed, class_index), n_shot + n_query)
        named = [LabelledImage(label, f"{label}-{index:02d}.png", content) for index, content in enumerate(pictures)]
        support += named[:n_shot]
        queries += named[n_shot:]
    return Demo(tuple(support), tuple(queries))


def _parts() -> dict[str, Part]:
    """The four classes: a rolled surface, sound or with a defect."""
    surface = next(family for family in SURFACES if family.name == "rolled")
    layers = ((steady_look(surface, _SURFACE), 1.0),)
    tone = Tone(level=0.55, contrast=0.035, tint=_GREY)
    pose = Pose(angle=0.0, angle_jitter=0.1, zoom_jitter=0.1)
    camera = Camera(gradient=0.12, exposure=0.1, blur_units=0.4, noise=0.012, light_angle=0.0)
    variation = Variation(mottle=0.5, contrast_spread=0.1)
    parts = {"clean": Part("clean", layers, tone, (), variation, pose, camera)}
    for label, (family_name, depth, point) in _FLAWS.items():
        family = next(family for family in DEFECTS if family.name == family_name)
        defect = Defect(steady_look(family, point), depth)
        parts[label] = Part(label, layers, tone, (defect,), variation, pose, camera)
    return parts


def _pngs(part: Part, seed: tuple[int, int], count: int) -> list[bytes]:
    generators = [np.random.default_rng(np.random.SeedSequence((*seed, index))) for index in range(count)]
    pictures = render(part, Draws(generators), SIDE, channels=1)  # (count, 1, side, side)
    return [_png(pixels[0]) for pixels in pictures]


def _png(pixels: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, format="PNG")
    return encoded.getvalue()
