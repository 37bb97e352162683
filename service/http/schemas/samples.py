"""The JSON of the samples that a client keeps."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from service.http.schemas.base import DIGEST, DIGEST_EXAMPLE, Answer, RequestBody


class HeldOutSample(Answer):
    """Prediction for a sample by the fold that was not adapted on it."""

    predicted: str = Field(examples=["scratch"])
    confidence: float = Field(description="probability of the predicted class", examples=[0.91])
    correct: bool = Field(description="whether the predicted class is the sample's label", examples=[True])


class StoredSample(Answer):
    """A stored image with its label."""

    digest: str = Field(description="SHA-256 of the stored image", json_schema_extra=DIGEST)
    label: str = Field(examples=["scratch"])
    name: str = Field(description="name of the file", examples=["part-0417.png"])
    part: str | None = Field(None, description="the physical part that it shows, if it was sent", examples=["0417"])
    first_version: int = Field(description="the first version that was adapted on it", examples=[1])
    held_out: HeldOutSample | None = Field(
        description="null if the version that judges did not hold the sample out, or does not have it"
    )
    suspect: bool = Field(description="whether the label is probably wrong", examples=[False])


class SampleList(Answer):
    """The samples that the next extension of a client builds on, ordered by digest."""

    client: str = Field(examples=["line-7"])
    version: int | None = Field(description="the version that judges the samples", examples=[2])
    retained: Literal[True] = Field(
        True, description="always true: a client that keeps no samples gets the problem `samples_not_kept`"
    )
    samples: list[StoredSample]


class Corrections(RequestBody):
    """Other labels for stored samples, and samples to leave out."""

    relabel: dict[str, str] = Field(
        {}, description="digest of a sample -> its right label", examples=[{DIGEST_EXAMPLE: "scratch"}]
    )
    remove: list[str] = Field([], description="digests of samples to leave out", examples=[[]])
    publish: Literal["auto", "always", "never"] = Field(
        "auto", description="auto: the gate decides whether the version goes live"
    )
