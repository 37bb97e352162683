"""Procedural surfaces with defects: as many classes as wanted, each a draw of parameters from a seed.

Made for meta-training on industrial inspection without a single photograph. ``Textures`` is the data set; the modules
beside it draw: ``canvas`` and ``fields`` the means, ``surfaces`` and ``defects`` the families, ``finish`` tone and
camera, ``lines`` what belongs together.
"""

from models.data.synthetic.classes import TEXTURES_VERSION, Textures

__all__ = ["TEXTURES_VERSION", "Textures"]
