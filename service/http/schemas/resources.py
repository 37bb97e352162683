"""The JSON of the resources: versions, predictions, jobs, aliases, clients, models and health."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from service.http.schemas.audit import Actor
from service.http.schemas.base import DIGEST, Answer, ProblemDetails, RequestBody
from service.http.schemas.reports import HeldOutPrediction, Report

MAX_KEEP_LAST: Final = 100_000
MAX_UNKNOWN_RATE: Final = 0.5
_CLIENT: Final = ["line-7"]


class Weights(Answer):
    """The stored weights of a version: those that differ from the model it started from."""

    digest: str = Field(description="SHA-256 of the stored weights", json_schema_extra=DIGEST)
    bytes: int = Field(description="size of the stored weights", examples=[48_640])


class AdaptResponse(Answer):
    """The version that an adaptation made."""

    client: str = Field(examples=_CLIENT)
    version: int = Field(examples=[1])
    parent: int | None = Field(description="the version that it extends", examples=[None])
    classes: list[str] = Field(examples=[["clean", "scratch"]])
    published: bool = Field(description="whether it went live", examples=[True])
    live: int | None = Field(description="the version that is live now", examples=[1])
    model: str = Field(description="name of the meta-trained model", examples=["efficientnet-lite0"])
    weights: Weights
    report: Report


class EarlierVersion(Answer):
    """The version that an upgrade was made from."""

    version: int = Field(examples=[1])
    model: str = Field(examples=["efficientnet-lite0"])
    estimated_accuracy: float | None = Field(examples=[0.83])
    interval: tuple[float, float] | None = Field(
        description="95 % confidence interval of the estimate", examples=[(0.7, 0.92)]
    )


class UpgradeResponse(AdaptResponse):
    """The version that an upgrade made, and the one before for comparison."""

    before: EarlierVersion


class JobSteps(Answer):
    """Progress in inner steps, including those of the cross-validation folds."""

    done: int = Field(examples=[12])
    of: int = Field(description="total; 0 until it is known", examples=[30])
    loss: float | None = Field(description="loss of the latest inner step of the version", examples=[0.35])


class Job(Answer):
    """An adaptation in the background."""

    job: str = Field(examples=["5f1c0e4b7a3d4c2f9e8d7c6b5a493827"])
    client: str = Field(examples=_CLIENT)
    state: Literal["waiting", "running", "done", "failed", "cancelled"]
    stage: Literal["waiting", "decode", "adapt", "examine", "store"] = Field(
        description="what the job is doing, or was doing when it ended"
    )
    steps: JobSteps
    first: AdaptResponse | None = Field(
        description="the version from prototypes, if one was requested and is ready; always null without inner steps"
    )
    result: AdaptResponse | None = Field(description="the version, once `state` is `done`")
    problem: ProblemDetails | None = Field(description="the error, once `state` is `failed`")
    created_at: datetime


class Explanation(Answer):
    """Where an image has what speaks for the predicted class against the next one, on a grid over the whole image."""

    rows: int = Field(description="cells from top to bottom; at most 24", examples=[2])
    columns: int = Field(description="cells from left to right; at most 24", examples=[3])
    values: list[list[float]] = Field(
        description="of each cell, row by row: from 0 to 1, which is the most; all 0 if nothing speaks for the class",
        examples=[[[0, 0.1, 0], [0, 1, 0.2]]],
    )


class Uncertainty(Answer):
    """How uncertain a prediction is, in nats; the entropy of n equally probable classes is ln n."""

    total: float = Field(description="entropy of `scores`", examples=[0.42])
    data: float = Field(
        description="the part that would remain if the classes were known exactly: the image lies between classes",
        examples=[0.31],
    )
    model: float = Field(
        description="the part that comes from few samples, `total` - `data`: more samples of the classes reduce it",
        examples=[0.11],
    )


class ImagePrediction(Answer):
    """Prediction for one image."""

    name: str = Field(description="name of the file", examples=["part-0417.png"])
    label: str = Field(description="the most probable class", examples=["scratch"])
    confidence: float = Field(description="probability of that class", examples=[0.93])
    scores: dict[str, float] = Field(
        description="probability of each class; they sum to 1", examples=[{"clean": 0.07, "scratch": 0.93}]
    )
    familiarity: float | None = Field(
        description="how similar the image is to the classes, 0 to 1; null for versions of earlier releases",
        examples=[0.88],
    )
    unknown_score: float | None = Field(
        None,
        description="how little the image looks like any of the classes, 0 to 1: 1 - `familiarity`",
        examples=[0.12],
    )
    unknown_threshold: float | None = Field(
        None,
        description="the verdict is `unknown` if `unknown_score` is above this, and the version's report has the same "
        "number; null: nothing could be held out to measure it, and every verdict is `known`",
        examples=[0.58],
    )
    verdict: Literal["known", "unknown"] = Field(
        description="`unknown`: the image probably belongs to none of the classes; `known`: it may belong to one, or "
        "the version has no `unknown_threshold` and cannot tell"
    )
    explanation: Explanation | None = Field(None, description="only if the request has explain=true")
    uncertainty: Uncertainty | None = Field(
        None, description="only from versions that were made with the client's setting uncertainty=bayes"
    )
    modalities: list[str] | None = Field(
        None,
        description="what the prediction is made from; only of models that take a text or numbers beside the image. "
        "Where the version was taught with more, the prediction is made from the image alone, and `familiarity`, "
        "`unknown_score` and `unknown_threshold` are null",
        examples=[["image", "text"]],
    )


class PredictResponse(Answer):
    """Predictions of one version for all images, in the order in which they were sent."""

    client: str = Field(examples=_CLIENT)
    version: int = Field(description="the version that predicted", examples=[1])
    weights_digest: str = Field(json_schema_extra=DIGEST)
    predictions: list[ImagePrediction]
    seconds: float = Field(examples=[0.004])


class Alias(Answer):
    """An alias and the version that it points to. Send `etag` in `If-Match` to move it safely."""

    client: str = Field(examples=_CLIENT)
    alias: str = Field(examples=["live"])
    version: int = Field(examples=[2])
    previous: int | None = Field(description="the version that it pointed to before", examples=[1])
    revision: int = Field(description="1, 2, 3 …, one more with each move", examples=[3])
    etag: str = Field(examples=['"4f2c81d0-3"'])
    moved_at: datetime
    reason: str = Field(description="adapt, set, rollback or promote", examples=["adapt"])
    by: Actor | None = Field(None, description="who moved it; null for moves of earlier releases")


class AliasTarget(RequestBody):
    """The version that an alias is to point to."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"version": 1}]})

    version: int = Field(strict=True, ge=1, le=2**31 - 1)


class History(Answer):
    """The log of alias moves, oldest first."""

    client: str = Field(examples=_CLIENT)
    at: datetime | None = Field(description="the requested moment in UTC; null for all moves")
    live: int | None = Field(description="the version that was live at that moment", examples=[2])
    moves: list[Alias]


class ClientInfo(Answer):
    """A client."""

    client: str = Field(examples=_CLIENT)
    created_at: datetime
    versions: int = Field(description="number of versions, without deleted ones", examples=[2])
    latest: int = Field(description="highest version number so far", examples=[2])
    live: int | None = Field(description="the live version", examples=[2])
    aliases: list[Alias]
    drifting: bool | None = Field(
        None,
        description="whether its images drift, in a list that was asked for with `drift=true`; null without images",
    )


class ClientList(Answer):
    """All clients, ordered by name."""

    clients: list[ClientInfo]


class ClientSettings(RequestBody):
    """Settings of a client."""

    retain_samples: Annotated[bool, BeforeValidator(lambda value: True if value is None else value)] = Field(
        True,
        strict=True,
        description="false: images are not stored and versions cannot be extended; null in a request: the default",
    )
    keep_last: int | None = Field(
        None,
        strict=True,
        ge=1,
        le=MAX_KEEP_LAST,
        description="how many of the newest versions garbage collection keeps; null: all",
    )
    floor: float | None = Field(
        None,
        strict=True,
        ge=0,
        le=1,
        description="minimum estimated accuracy to go live; null: half way between chance and 1",
    )
    lower_bound: float | None = Field(
        None,
        strict=True,
        ge=0,
        le=1,
        description="minimum of the lower end of the accuracy's 95 % interval to go live; null: chance, or the floor "
        "if that is lower",
    )
    tolerance: float | None = Field(
        None,
        strict=True,
        ge=0,
        le=1,
        description="share of an earlier class's kept samples that a version may lose and still go live; "
        "null: a quarter, and more if a paired test cannot tell the loss from chance",
    )
    unknown_rate: float | None = Field(
        None,
        strict=True,
        ge=0,
        le=MAX_UNKNOWN_RATE,
        description="share of images of the classes that may get the verdict `unknown`; the `unknown_threshold` of the "
        "next versions is set from it; null: 0.05",
    )
    bit_depth: Literal[8, 10, 12, 14, 16] | None = Field(
        None,
        description="how many of their 16 bits per sample images use in the next versions, if their files do not "
        "declare it; null: as many as the client's earlier images, or the fewest that hold the values",
    )
    model: str | None = Field(
        None,
        strict=True,
        description="name of the model that the next versions are adapted from, see GET /models; null: the default",
        examples=["efficientnet-lite0"],
    )
    uncertainty: Literal["point", "bayes"] | None = Field(
        None,
        description="`bayes`: the next versions average `scores` over what their samples leave open about the classes, "
        "and predictions carry `uncertainty`; null: `point`, or `bayes` if the model was trained with "
        "bayesian-reptile",
    )
    log_predictions: bool | None = Field(
        None,
        strict=True,
        description="true: keep what versions say about images in the prediction log, never the images; null: false",
    )


class DeletedClient(Answer):
    """What was deleted with a client."""

    client: str = Field(examples=_CLIENT)
    versions: int = Field(examples=[2])
    blobs: int = Field(description="stored samples and weights", examples=[22])
    bytes: int = Field(description="their total size", examples=[310_204])


class Sample(Answer):
    """A labelled image that a version was adapted on."""

    name: str = Field(description="name of the file", examples=["part-0417.png"])
    label: str = Field(examples=["scratch"])
    digest: str = Field(description="SHA-256 of the stored image", json_schema_extra=DIGEST)
    part: str | None = Field(None, description="the physical part that it shows, if it was sent", examples=["0417"])
    text: str | None = Field(None, description="the text that came with it", examples=["drive side"])
    vector: list[float] | None = Field(None, description="the numbers that came with it", examples=[[21.5, 0.03]])
    held_out: HeldOutPrediction | None = Field(None, description="prediction by the fold that left the sample out")


class VersionInfo(Answer):
    """A version as lists show it."""

    client: str = Field(examples=_CLIENT)
    version: int = Field(examples=[1])
    parent: int | None = Field(examples=[None])
    classes: list[str] = Field(examples=[["clean", "scratch"]])
    samples: int = Field(examples=[10])
    aliases: list[str] = Field(description="aliases that point to it", examples=[["live"]])
    model: str = Field(examples=["efficientnet-lite0"])
    weights: Weights
    support_accuracy: float | None = Field(examples=[1.0])
    estimated_accuracy: float | None = Field(examples=[0.94])
    gate: Literal["publish", "hold"]
    created_at: datetime


class VersionList(Answer):
    """The versions of a client without deleted ones, oldest first."""

    client: str = Field(examples=_CLIENT)
    live: int | None = Field(examples=[1])
    versions: list[VersionInfo]


class Confusion(Answer):
    """The confusion matrix of a version's held-out samples."""

    classes: list[str] = Field(description="of the rows and columns", examples=[["clean", "scratch"]])
    counts: list[list[int]] = Field(description="rows are labels, columns are predictions", examples=[[[5, 0], [1, 4]]])


class VersionDetails(VersionInfo):
    """A version with everything that is needed to make it again."""

    model_digest: str = Field(json_schema_extra=DIGEST)
    recipe: dict[str, Any] = Field(description="settings of the inner loop", examples=[{"steps": 5}])
    seed: int = Field(examples=[0])
    device: str = Field(examples=["cpu"])
    batched_with: int = Field(
        description="inner loops that ran in the same batch; with 0 a repetition is bit-identical", examples=[0]
    )
    sample_list: list[Sample] = Field(description="in the order in which they were used")
    report: Report
    confusion: Confusion | None = Field(None, description="null if no sample was held out")


class MetaModel(Answer):
    """A meta-trained model that clients are adapted from."""

    name: str = Field(examples=["efficientnet-lite0"])
    digest: str = Field(json_schema_extra=DIGEST)
    net: dict[str, Any] = Field(description="architecture", examples=[{"kind": "conv4"}])
    recipe: dict[str, Any] = Field(description="default settings of the inner loop", examples=[{"steps": 5}])
    image: dict[str, Any] = Field(description="preprocessing of images", examples=[{"side": 64, "channels": 1}])
    takes: str = Field(
        "none", description="what may come with each image: none, text, strokes or vector", examples=["text"]
    )
    card: dict[str, Any] = Field(description="how it was trained, and its scores", examples=[{"data": "surfaces"}])


class MetaModelList(Answer):
    """The available models; the first one is the default."""

    models: list[MetaModel]


class Liveness(Answer):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Readiness(Answer):
    """Whether the process accepts requests."""

    status: Literal["ready", "not ready"]
    checks: dict[str, str] = Field(examples=[{"store": "ok", "meta_model": "ok", "draining": "ok"}])


class RequestLimits(Answer):
    """What one request may have. Split larger ones."""

    files: int = Field(description="files in a form, or in an archive", examples=[64])
    adapt_body_bytes: int = Field(description="body of POST /adapt", examples=[33_554_432])
    predict_body_bytes: int = Field(description="body of POST /predict", examples=[12_582_912])


class ServiceInfo(Answer):
    """Name, version, links and limits of the service."""

    service: str
    version: str
    access: Literal["open", "key"]
    docs: str
    openapi: str
    clients: str
    limits: RequestLimits | None = Field(None, description="null for services that do not report them")
