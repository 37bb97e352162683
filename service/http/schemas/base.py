"""What all answers have in common."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

DIGEST_EXAMPLE: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

DIGEST: Final[JsonDict] = {"examples": [DIGEST_EXAMPLE]}
"""An example digest for the API description."""


class Answer(BaseModel):
    """Base of all answers. Unknown fields are ignored, so that an older client can read a newer server."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class RequestBody(BaseModel):
    """Base of all JSON request bodies. Unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)


class ProblemDetails(Answer):
    """An error as RFC 9457 describes it. Programs should compare `code`; `detail` is for people."""

    type: str = Field(examples=["urn:anole:problem:unknown_client"])
    title: str = Field(description="short summary, the same for each occurrence", examples=["Unknown client"])
    status: int = Field(description="the HTTP status", examples=[404])
    code: str = Field(description="stable snake_case name of the problem", examples=["unknown_client"])
    detail: str = Field(description="what was sent, what is allowed and what to do")
    instance: str = Field(description="path of the request", examples=["/clients/line-7"])
