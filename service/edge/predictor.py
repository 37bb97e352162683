"""Predicts with a release: onnxruntime and numpy, through the code that the service predicts with on a CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import AnoleError, InvalidConfig
from models.feature_arrays import Floats
from models.images.array_preprocessing import prepare_array
from models.images.decoding import DecodedPixels, decode_pixels
from models.images.image_config import PREPROCESSING_VERSION, ImageConfig
from models.inference.array_predict import (
    NetOutput,
    OnnxNet,
    concatenate,
    familiarity,
    lead,
    novelty_of,
    run_head,
    second_look,
    softmax,
)
from models.inference.onnx_backbone import OnnxBackbone, Pooling
from models.weight_names import HEAD_GAIN, HEAD_LENGTH, HEAD_LEVEL, HEAD_MEANS, SECOND_LOOK
from service.domain.prediction import ImagePrediction, image_prediction
from service.edge.bundle import Release, Start
from service.edge.errors import AnoleMismatch, ReleaseInvalid

_AFTER_THE_NET = frozenset({HEAD_MEANS, HEAD_GAIN, HEAD_LEVEL, HEAD_LENGTH, SECOND_LOOK})


class LoadedStart:
    """A start whose graph is ready to run. Thread-safe.

    Args:
        start: from a repository.
        threads: of one run.

    Raises:
        AnoleMismatch: this release of Anole prepares images in another way.
        ReleaseInvalid: the graph cannot be run.
    """

    def __init__(self, start: Start, threads: int = 1) -> None:
        if start.info.preprocessing != PREPROCESSING_VERSION:
            raise AnoleMismatch(
                f"the start {start.info.name!r} needs preprocessing {start.info.preprocessing}, and this release of "
                f"Anole has {PREPROCESSING_VERSION}; update Anole on the device, or on the publisher and release again"
            )
        self.info = start.info
        self.weights = start.weights
        self._backbone: OnnxBackbone | None = None
        self._net: OnnxNet | None = None
        try:
            self._image = ImageConfig(**start.info.image)
            if start.info.pooling is None:
                self._net = OnnxNet(start.graph, start.info.net, threads)
            else:
                pooling = Pooling(**start.info.pooling.model_dump())
                self._backbone = OnnxBackbone(start.graph, start.weights, pooling, threads)
        except (AnoleError, TypeError, InvalidConfig) as error:
            raise ReleaseInvalid(f"the start {start.info.name!r} cannot be loaded: {error}") from error
        except Exception as error:  # onnxruntime raises classes of its own that share no base but Exception
            raise ReleaseInvalid(f"the graph of the start {start.info.name!r} cannot be loaded: {error}") from error

    def run(
        self, weights: Mapping[str, Any], images: Sequence[NDArray[np.uint8]], *, turned: bool = False
    ) -> NetOutput:
        """Run the net for canonical images, one by one, so that no answer depends on the other images."""
        outputs = [self._run_one(weights, image, turned=turned) for image in images]
        return concatenate(outputs)

    @property
    def frozen(self) -> bool:
        """Whether the start has a frozen backbone, which sees doubtful images a second time."""
        return self._backbone is not None

    def _run_one(self, weights: Mapping[str, Any], image: NDArray[np.uint8], *, turned: bool) -> NetOutput:
        prepared = prepare_array(image, self._image)
        if turned:
            prepared = np.ascontiguousarray(prepared[..., ::-1, ::-1])
        if self._backbone is not None:
            return run_head(weights, self._backbone.embed(prepared))
        if self._net is None:
            raise ReleaseInvalid(f"the start {self.info.name!r} has no graph")
        return self._net.run(weights, prepared)


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of images: probabilities (images, n_way), and familiarity (images,) or None."""

    probabilities: Floats
    familiarity: Floats | None


class LoadedRelease:
    """A release with its start. Thread-safe.

    Raises:
        ReleaseInvalid: the release belongs to another start.
    """

    def __init__(self, release: Release, start: LoadedStart) -> None:
        if release.info.start != start.info.digest:
            raise ReleaseInvalid(
                f"release {release.info.version} of {release.info.client!r} belongs to the start "
                f"{release.info.start[:12]}…, and the repository names {start.info.digest[:12]}… for it; publish it "
                "again"
            )
        self.info = release.info
        self._smoke = release.smoke
        self._start = start
        try:
            folded = {**{name: start.weights[name] for name in release.info.from_start}, **release.weights}
            self._weights = {name: array for name, array in folded.items() if name not in _AFTER_THE_NET}
            self._novelty = novelty_of(folded)
            self._margin = float(folded[SECOND_LOOK]) if SECOND_LOOK in folded and start.frozen else None
        except (KeyError, TypeError, ValueError) as error:
            raise ReleaseInvalid(f"the tensors of the release do not fit together: {error!r}") from error

    def predict(self, files: Sequence[tuple[str, DecodedPixels]]) -> list[ImagePrediction]:
        """Predict decoded files, each with its name.

        Raises:
            ImageDepthMismatch: an image has more bits per sample than the client's.
        """
        version = self.info.served()
        scores = self._scores([image.at_depth(version.bit_depth) for _, image in files])
        none = [None] * len(files)
        familiarities = none if scores.familiarity is None else scores.familiarity.tolist()
        rows = zip(files, scores.probabilities.tolist(), familiarities, strict=True)
        return [image_prediction(name, version, row, familiar) for (name, _), row, familiar in rows]

    def check_smoke_set(self) -> None:
        """Predict the smoke set and compare the scores with the publisher's.

        Raises:
            ReleaseInvalid: they differ by more than the tolerance.
        """
        try:
            scores = self._scores([decode_pixels(image).pixels for image in self._smoke])
            differences = [
                np.abs(row - np.array(answer.scores)).max()
                for row, answer in zip(scores.probabilities, self.info.smoke, strict=True)
            ]
            if scores.familiarity is not None:
                differences += [
                    abs(found - answer.familiarity)
                    for found, answer in zip(scores.familiarity.tolist(), self.info.smoke, strict=True)
                    if answer.familiarity is not None
                ]
            worst = float(np.max(differences))
        except ReleaseInvalid:
            raise
        except Exception as error:  # a release that cannot predict fails in onnxruntime, numpy or the decoder
            raise ReleaseInvalid(f"the release cannot predict its smoke set: {error!r}") from error
        if not worst <= self.info.tolerance:  # also for NaN
            raise ReleaseInvalid(
                f"the scores of the smoke set differ by {worst:.3f} from the publisher's; at most "
                f"{self.info.tolerance} is allowed"
            )

    def _scores(self, images: Sequence[NDArray[np.uint8]]) -> Scores:
        output = self._start.run(self._weights, images)
        if self._margin is not None:
            output = self._look_again(output, images, self._margin)
        probabilities = softmax(output.logits)
        return Scores(
            probabilities, None if self._novelty is None else familiarity(self._novelty, output, probabilities)
        )

    def _look_again(self, output: NetOutput, images: Sequence[NDArray[np.uint8]], margin: float) -> NetOutput:
        """Take a second look at the images whose class is in doubt; see `models.nets.heads.second_look`."""
        (doubtful,) = np.nonzero(lead(output.logits) < margin)
        if not len(doubtful):
            return output
        seen = self._start.run(self._weights, [images[index] for index in doubtful.tolist()], turned=True)
        combined = output.logits.copy()
        combined[doubtful] = second_look(output.logits[doubtful], seen.logits, margin)
        return NetOutput(combined, output.features, output.lengths)
