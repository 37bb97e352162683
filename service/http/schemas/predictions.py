"""What versions said about images."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from service.http.schemas.base import DIGEST, Answer


class Judgement(Answer):
    """What a version said about an image."""

    version: int = Field(examples=[2])
    label: str = Field(description="the most probable class", examples=["scratch"])
    confidence: float = Field(description="probability of that class", examples=[0.93])
    unknown_score: float | None = Field(
        description="how little the image looks like any of the classes, 0 to 1", examples=[0.12]
    )
    verdict: Literal["known", "unknown"]


class LoggedPrediction(Judgement):
    """What a request was answered about one image."""

    id: int = Field(description="rises with each entry", examples=[51_204])
    at: datetime = Field(description="when the service predicted, UTC")
    image: str = Field(description="SHA-256 of the file that was sent", json_schema_extra=DIGEST)
    part: str | None = Field(description="the part that it shows, if it was sent", examples=["0417"])
    station: str | None = Field(description="where it was taken, if it was sent", examples=["camera-3"])
    request_id: str | None = Field(
        description="`X-Request-ID` of the response", examples=["2f0c6a0b1d4e5f607182000000000017"]
    )
    candidate: Judgement | None = Field(
        description="what the version of the alias `candidate` said in the background, if there was one"
    )


class LoggedPredictionList(Answer):
    """Entries of the prediction log, newest first."""

    client: str = Field(examples=["line-7"])
    predictions: list[LoggedPrediction]


class LoggedPredictionRow(Answer):
    """An entry as a row of a CSV file."""

    id: int
    at: datetime
    part: str | None
    station: str | None
    image: str
    version: int
    label: str
    confidence: float
    unknown_score: float | None
    verdict: str
    candidate_version: int | None
    candidate_label: str | None
    candidate_confidence: float | None
    candidate_unknown_score: float | None
    candidate_verdict: str | None
    request_id: str | None


class ShadowReport(Answer):
    """What would change if a candidate answered instead of a version."""

    client: str = Field(examples=["line-7"])
    version: int = Field(description="the version that answered", examples=[1])
    candidate: int = Field(description="the version that judged in the background", examples=[2])
    images: int = Field(description="images that both judged", examples=[480])
    agreement: float | None = Field(
        description="share of those whose answer would not change: the verdict is the same, and the label too unless "
        "both are `unknown`; null without images",
        examples=[0.97],
    )
    interval: tuple[float, float] | None = Field(
        description="95 % confidence interval of the agreement", examples=[(0.95, 0.98)]
    )
    unknown: float | None = Field(description="share of the verdict `unknown` of the version", examples=[0.04])
    candidate_unknown: float | None = Field(description="the same of the candidate", examples=[0.02])
    changed: list[LoggedPrediction] = Field(description="images whose answer would change, newest first")


class DriftPeriod(Answer):
    """What the live version said in a period."""

    since: datetime = Field(description="begin of the period, UTC; an hour, or the whole period")
    images: int = Field(examples=[120])
    unknown: float | None = Field(description="share of the verdict `unknown`; null without images", examples=[0.03])
    errors: float | None = Field(
        description="share of errors that the version itself expects: the mean of 1 - `confidence`", examples=[0.06]
    )
    above: list[Literal["unknown", "errors"]] = Field(
        description="which of the shares is so far above the expectation that chance does not explain it"
    )


class DriftExpectation(Answer):
    """The highest shares that are no drift; null if validation did not measure them."""

    unknown: float | None = Field(
        description="from the client's `unknown_rate` and the number of samples that the threshold was measured on",
        examples=[0.12],
    )
    errors: float | None = Field(
        description="from the lower end of the interval of the estimated accuracy", examples=[0.14]
    )


class DriftReport(Answer):
    """Whether the images of a client are unlike those that its live version was validated on."""

    client: str = Field(examples=["line-7"])
    version: int = Field(description="the live version", examples=[1])
    drifting: bool = Field(description="whether a share of the whole period, or of its newest hour, is above")
    expected: DriftExpectation
    total: DriftPeriod
    hours: list[DriftPeriod] = Field(description="the hours with images, oldest first")


class PredictionFilter(BaseModel):
    """What entries must have."""

    part: Annotated[str | None, Field(max_length=64, description="name of a part", examples=["0417"])] = None
    image: Annotated[str | None, Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of the file that was sent")] = (
        None
    )
    station: Annotated[str | None, Field(max_length=64, description="name of a station", examples=["camera-3"])] = None
    label: Annotated[str | None, Field(max_length=64, description="predicted class", examples=["scratch"])] = None
    verdict: Annotated[Literal["known", "unknown"] | None, Field(description="verdict of the answer")] = None
    version: Annotated[int | None, Field(ge=1, le=2**31 - 1, description="the version that answered")] = None
