"""The two kinds of files that devices fetch: starts, which many releases share, and releases, one for each version.

Both are safetensors files with a JSON document in their metadata. A start has a graph for onnxruntime and the weights
that no client adapts. A release has the tensors that its version changes, class names, thresholds, and a smoke set:
generated images with the answers that the publisher got.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from service.domain.version import ServedVersion
from service.edge.errors import AnoleMismatch, ReleaseInvalid

START_FORMAT: Final = "anole-start-1"
RELEASE_FORMAT: Final = "anole-release-1"
MAX_RELEASE_BYTES: Final = 4 * 2**20
MAX_START_BYTES: Final = 512 * 2**20

_DOCUMENT: Final = "anole"
_GRAPH: Final = "graph"
_WEIGHT: Final = "weight."
_SMOKE: Final = "smoke."

Array = NDArray[Any]
Info = TypeVar("Info", bound="_Document")


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PoolingRule(_Document):
    """See `models.inference.onnx_backbone.Pooling`."""

    extremes: tuple[int, ...]
    patch_stage: int | None
    places: int


class StartInfo(_Document):
    """What a start is.

    Attributes:
        name: of the checkpoint.
        digest: SHA-256 (hex) of the checkpoint; a release names the start that it belongs to by it.
        net: settings of the net as JSON data, as the graph has them.
        image: preprocessing, the fields of `ImageConfig`.
        preprocessing: `PREPROCESSING_VERSION` that the publisher had.
        pooling: of a frozen backbone; None for nets that run whole for every version.
        card: how the checkpoint was trained, and its licence, as JSON data.
    """

    format: Literal["anole-start-1"] = START_FORMAT
    name: str
    digest: str
    net: Mapping[str, Any]
    image: Mapping[str, Any]
    preprocessing: int
    pooling: PoolingRule | None
    card: Mapping[str, Any]


class SmokeAnswer(_Document):
    """What the publisher predicted for one image of the smoke set."""

    scores: tuple[float, ...]
    familiarity: float | None


class HealthRule(_Document):
    """When a device goes back to the release before.

    Attributes:
        least_images: images before the shares count.
        max_unknown: largest share of images with the verdict unknown.
        max_failed: largest share of predictions that fail with an internal error.
    """

    least_images: int = Field(50, ge=1)
    max_unknown: float = Field(0.5, ge=0, le=1)
    max_failed: float = Field(0.02, ge=0, le=1)


class ReleaseInfo(_Document):
    """What a release is.

    Attributes:
        client: name of the client.
        version: number of the version.
        weights_digest: SHA-256 (hex) of the version's weights in the store that it comes from.
        start: digest of the checkpoint that it belongs to.
        start_name: name of that checkpoint.
        from_start: names of the start's tensors that the version leaves as they are; the release has the others.
        classes: class names, in the order of the scores.
        unknown_threshold: `unknown_score` above which an image is unknown; None if no image can be.
        bit_depth: of images of 16 bits per sample that do not declare it.
        card: estimated accuracy, when it was made and from how many samples, as JSON data.
        smoke: answers to the images of the smoke set, in order.
        tolerance: largest difference between a device's scores and these answers.
        health: when a device goes back to the release before.
    """

    format: Literal["anole-release-1"] = RELEASE_FORMAT
    client: str
    version: int
    weights_digest: str
    start: str
    start_name: str
    from_start: tuple[str, ...]
    classes: tuple[str, ...]
    unknown_threshold: float | None
    bit_depth: int | None
    card: Mapping[str, Any]
    smoke: tuple[SmokeAnswer, ...] = Field(min_length=1)
    tolerance: float = Field(0.02, gt=0, le=0.2)
    health: HealthRule = HealthRule()

    def served(self) -> ServedVersion:
        """The version as predictions name it."""
        return ServedVersion(
            client=self.client,
            number=self.version,
            classes=self.classes,
            meta_model=self.start_name,
            meta_model_digest=self.start,
            weights_digest=self.weights_digest,
            unknown_threshold=self.unknown_threshold,
            bit_depth=self.bit_depth,
        )


class Start:
    """A start in memory.

    Attributes:
        info: what it is.
        graph: for onnxruntime.
        weights: by name.
    """

    def __init__(self, info: StartInfo, graph: bytes, weights: Mapping[str, Array]) -> None:
        self.info, self.graph, self.weights = info, graph, weights

    def to_bytes(self) -> bytes:
        """The file; equal starts give equal bytes."""
        tensors = {_GRAPH: np.frombuffer(self.graph, np.uint8)}
        return _to_bytes(self.info, {**tensors, **_prefixed(_WEIGHT, self.weights)})

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read a file. Raises ReleaseInvalid."""
        tensors = _tensors(content)
        info = _document(content, StartInfo)
        if _GRAPH not in tensors:
            raise ReleaseInvalid(f"the start {info.name!r} has no graph; publish it again")
        return cls(info, tensors[_GRAPH].tobytes(), _without_prefix(_WEIGHT, tensors))


class Release:
    """A release in memory.

    Attributes:
        info: what it is.
        weights: tensors that the version changes, by name, with its temperature and statistics folded in.
        smoke: image files of the smoke set.
    """

    def __init__(self, info: ReleaseInfo, weights: Mapping[str, Array], smoke: tuple[bytes, ...]) -> None:
        self.info, self.weights, self.smoke = info, weights, smoke

    def to_bytes(self) -> bytes:
        """The file; equal releases give equal bytes."""
        images = {f"{index:03}": np.frombuffer(image, np.uint8) for index, image in enumerate(self.smoke)}
        return _to_bytes(self.info, {**_prefixed(_WEIGHT, self.weights), **_prefixed(_SMOKE, images)})

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read a file. Raises ReleaseInvalid."""
        tensors = _tensors(content)
        info = _document(content, ReleaseInfo)
        images = _without_prefix(_SMOKE, tensors)
        smoke = tuple(images[name].tobytes() for name in sorted(images))
        if len(smoke) != len(info.smoke):
            raise ReleaseInvalid(
                f"the release of {info.client!r} has {len(smoke)} smoke images and {len(info.smoke)} answers; publish "
                "it again"
            )
        return cls(info, _without_prefix(_WEIGHT, tensors), smoke)


def _prefixed(prefix: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
    return {prefix + name: np.asarray(array, order="C") for name, array in tensors.items()}


def _without_prefix(prefix: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}


def _to_bytes(info: _Document, tensors: Mapping[str, Array]) -> bytes:
    content: bytes = save(dict(sorted(tensors.items())), {_DOCUMENT: json.dumps(info.model_dump(), sort_keys=True)})
    return content


def _tensors(content: bytes) -> dict[str, Array]:
    try:
        return load(content)
    except SafetensorError as error:
        raise ReleaseInvalid(f"the file is not a safetensors file: {error}; publish it again") from error


def _document(content: bytes, kind: type[Info]) -> Info:
    """Read the JSON document of a safetensors file whose tensors could be read."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    try:
        return kind.model_validate_json(header.get("__metadata__", {}).get(_DOCUMENT, ""))
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise AnoleMismatch(
            f"the file is not a {kind.__name__.removesuffix('Info').lower()} that this release of Anole can read "
            f"({reasons}); publish it again, or update Anole on the device"
        ) from error
