"""What all answers share. It knows no answer."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict
from pydantic.config import JsonDict

DIGEST: Final[JsonDict] = {"examples": ["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]}
"""What a digest looks like, for /docs."""


class Answer(BaseModel):
    """Frozen, and refusing fields that are not written down."""

    model_config = ConfigDict(frozen=True, extra="forbid")
