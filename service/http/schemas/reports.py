"""The JSON of a version's validation report and of the comparison of two versions."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from service.http.schemas.base import DIGEST, Answer


class LabelIssue(Answer):
    """A sample whose label is probably wrong: it looks like another class, and cross-validation predicts one."""

    sample: str = Field(examples=["part-0417.png"])
    label: str = Field(examples=["clean"])
    predicted: str = Field(examples=["scratch"])
    confidence: float = Field(description="probability of the predicted class", examples=[0.97])


class AccuracyDrop(Answer):
    """A class that is recognised less well than before, measured on held-out samples of both versions."""

    label: str = Field(examples=["scratch"])
    judged: int = Field(description="kept samples that both versions predicted", examples=[8])
    before: int = Field(description="of those, correct before", examples=[8])
    after: int = Field(description="of those, correct now", examples=[5])


class GateDetail(Answer):
    """A reason of the gate for programs that phrase it themselves, for example in another language."""

    code: str = Field(description="stable snake_case name of the reason", examples=["estimate_reaches_floor"])
    text: str = Field(
        description="the sentence, as in `reasons`",
        examples=["the estimated accuracy of 94.0 % (95 % interval 81.0 % to 99.0 %) reaches the floor of 75.0 %"],
    )
    values: dict[str, Any] = Field(
        {},
        description="the numbers and names of the sentence: shares are between 0 and 1; a list has the first entries, "
        "and `more` is the number of others",
        examples=[{"estimate": 0.94, "low": 0.81, "high": 0.99, "floor": 0.75}],
    )


class Gate(Answer):
    """Whether the new version goes live, and why."""

    decision: Literal["publish", "hold"]
    reasons: list[str] = Field(
        description="sentences for people",
        examples=[["the estimated accuracy of 94.0 % (95 % interval 81.0 % to 99.0 %) reaches the floor of 75.0 %"]],
    )
    notes: list[str] = Field(
        [], description="those of the reasons that are about what was sent, such as repeated files; they do not decide"
    )
    details: list[GateDetail] = Field(
        [], description="the reasons, each with a code; empty for versions of releases that did not record them"
    )
    floor: float | None = Field(None, description="minimum estimated accuracy that was applied", examples=[0.75])
    lower_bound: float | None = Field(
        None, description="minimum of the interval's lower end that was applied", examples=[0.5]
    )
    dropped: list[AccuracyDrop] = Field([], description="earlier classes that lost more than the tolerance")


class Seconds(Answer):
    """Where the time of an adaptation went, in seconds."""

    decode: float = Field(examples=[0.02])
    adapt: float = Field(description="inner loops of the version and of its cross-validation folds", examples=[0.41])
    examine: float = Field(description="evaluation of the held-out samples", examples=[0.01])
    store: float = Field(examples=[0.02])
    total: float = Field(examples=[0.46])


class Report(Answer):
    """What is known about a new version. Fields that need cross-validation are null when there was none."""

    support_accuracy: float | None = Field(description="accuracy on its own samples; optimistic", examples=[1.0])
    estimated_accuracy: float | None = Field(description="balanced accuracy on held-out samples", examples=[0.94])
    interval: tuple[float, float] | None = Field(
        description="95 % confidence interval of the estimate", examples=[(0.81, 0.99)]
    )
    temperature: float | None = Field(description="temperature that calibrates the confidences", examples=[1.3])
    unknown_threshold: float | None = Field(
        description="a prediction is `unknown` if its `unknown_score` is above this; null if it could not be measured, "
        "and then every prediction is `known`",
        examples=[0.58],
    )
    bit_depth: int | None = Field(
        None,
        description="bits that images of 16 bits per sample were scaled from, if they do not declare how many they use",
        examples=[12],
    )
    modalities: list[str] | None = Field(
        None,
        description="what the version was taught with, of models that take a text or numbers beside the image; null "
        "for models that take images alone",
        examples=[["image", "text"]],
    )
    loss_curve: list[float] = Field(description="loss after each inner step", examples=[[1.61, 0.72, 0.35]])
    suspects: list[LabelIssue] | None = Field(description="probable label errors, the most probable first")
    alike: list[str] | None = Field(
        None,
        description="classes whose images nearly repeat each other: the estimate may be too high for new parts",
        examples=[["clean"]],
    )
    confusion: list[list[int]] | None = Field(
        None,
        description="confusion matrix of the held-out samples: rows are labels, columns are predictions, "
        "in the order of `classes`",
        examples=[[[5, 0], [1, 4]]],
    )
    folds: int = Field(0, description="number of cross-validation folds", examples=[5])
    gate: Gate
    seconds: Seconds


class HeldOutPrediction(Answer):
    """Prediction for a sample by a fold that was not adapted on it."""

    label: str = Field(examples=["scratch"])
    confidence: float = Field(examples=[0.91])
    verdict: Literal["known", "unknown"]


class ClassEstimate(Answer):
    """Accuracy of one class on held-out samples."""

    judged: int = Field(description="number of held-out samples", examples=[5])
    right: int = Field(description="of those, correct", examples=[4])
    estimate: float | None = Field(description="share that is correct; null without samples", examples=[0.8])


class ClassDiff(Answer):
    """A class in two versions; null where a version does not have it."""

    label: str = Field(examples=["scratch"])
    before: ClassEstimate | None
    after: ClassEstimate | None


class SampleDiff(Answer):
    """A sample of both versions whose label or verdict differs."""

    name: str = Field(examples=["part-0417.png"])
    digest: str = Field(json_schema_extra=DIGEST)
    label_before: str = Field(examples=["clean"])
    label_after: str = Field(examples=["scratch"])
    before: HeldOutPrediction | None
    after: HeldOutPrediction | None


class VersionDiff(Answer):
    """Differences between two versions of a client."""

    client: str = Field(examples=["line-7"])
    before: int = Field(examples=[1])
    after: int = Field(examples=[2])
    added: list[str] = Field(description="classes that only the later version has", examples=[["dent"]])
    removed: list[str] = Field(description="classes that only the earlier version has", examples=[[]])
    estimate_before: float | None = Field(examples=[0.94])
    estimate_after: float | None = Field(examples=[0.96])
    classes: list[ClassDiff]
    samples_kept: int = Field(description="samples that both versions were adapted on", examples=[10])
    samples_added: int = Field(examples=[5])
    samples_removed: int = Field(examples=[0])
    changed: list[SampleDiff] = Field(description="kept samples whose label or verdict differs")
