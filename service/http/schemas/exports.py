"""Names of exported files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ENDINGS: Final[Mapping[str, str]] = {"onnx": ".onnx", "openvino": ".zip", "torch": ".pt2"}
"""Format -> how the names of its files end."""
