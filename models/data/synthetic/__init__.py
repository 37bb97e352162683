"""Procedural surfaces with defects, for meta-training on industrial inspection without photographs.

``Textures`` is the dataset: any number of classes, each drawn from a seed. ``NotedSurfaces`` adds notes in words.
``surfaces`` and ``defects`` hold the families, ``camera`` tone and photography, ``canvas`` and ``family`` the tools for
drawing. ``fixed_camera`` and ``tone_classes`` draw sets that test what a start can see: small defects on one product,
colour, and brightness.
"""

from models.data.synthetic.noted_surfaces import NOTED_SURFACES_VERSION, NotedSurfaces
from models.data.synthetic.textures import TEXTURES_VERSION, Textures

__all__ = ["NOTED_SURFACES_VERSION", "TEXTURES_VERSION", "NotedSurfaces", "Textures"]
