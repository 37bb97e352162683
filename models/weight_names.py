"""Names of weights that prediction reads. This module does not import torch, so that devices predict without it."""

from __future__ import annotations

from typing import Final

HEAD_WEIGHT: Final = "head.weight"
HEAD_BIAS: Final = "head.bias"
HEAD_MEANS: Final = "head.means"
HEAD_GAIN: Final = "head.gain"
HEAD_LEVEL: Final = "head.level"
HEAD_LENGTH: Final = "head.length"
SECOND_LOOK: Final = "head.second_look"

POOLED_SCALE: Final = "pooled.scale"
POOLED_SHIFT: Final = "pooled.shift"
POOLED_LIMIT: Final = "pooled.limit"

PATCHES: Final = "memory.patches"
PATCH_SCALE: Final = "memory.scale"
PATCH_SHIFT: Final = "memory.shift"
PATCH_BASIS: Final = "memory.basis"

NOTES_CENTRE: Final = "notes.centre"
NOTES_SPAN: Final = "notes.span"
