"""Procedural surfaces with defects, for meta-training on industrial inspection without photographs.

``Textures`` is the dataset: any number of classes, each drawn from a seed. ``surfaces`` and ``defects`` hold the
families, ``camera`` tone and photography, ``canvas`` and ``family`` the tools for drawing.
"""

from models.data.synthetic.textures import TEXTURES_VERSION, Textures

__all__ = ["TEXTURES_VERSION", "Textures"]
