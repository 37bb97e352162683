"""POST /predict with explain=true: predicts, and shows for each image what spoke for its class.

Explanations take many times as long as predictions, so they have a thread and a queue of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Final

from service.domain.prediction import Explanation, ImagePrediction
from service.domain.version import LIVE
from service.runtime.checkpoints import LoadedCheckpoints
from service.runtime.decoder import Upload
from service.runtime.predict_batcher import PredictBatcher
from service.store.version_store import VersionStore
from service.usecases.predict import PredictCommand, Predicting, Prediction, PredictOutcome

MAX_EXPLAINED: Final = 8
"""Images of a request that are explained at most."""

_DIGITS: Final = 3

Explained = tuple[int, PredictOutcome | Exception]


class ExplainedPrediction(Predicting):
    """Predicts and explains. Thread-safe.

    Args:
        prediction: predicts.
        store: stores the versions.
        checkpoints: the checkpoints that versions were adapted from.
    """

    def __init__(self, prediction: Prediction, store: VersionStore, checkpoints: LoadedCheckpoints) -> None:
        self._prediction = prediction
        self._store = store
        self._checkpoints = checkpoints
        self._batcher: PredictBatcher[PredictCommand, PredictOutcome] = PredictBatcher(
            self._explain_batch, max_size=MAX_EXPLAINED, threads=1
        )

    def submit(
        self, client: str, uploads: Sequence[Upload], reference: str = LIVE, caller: str = ""
    ) -> Future[PredictOutcome]:
        """Queue what `Prediction.submit` does, with an explanation of each prediction.

        Raises:
            NoSamples, Overloaded: at once; the future raises the other errors of `Predicting.run`, and
            ExplanationUnsupported: the version's net cannot be explained.
        """
        command = self._prediction.command(client, uploads, reference, caller)
        return self._batcher.submit(command, len(uploads), caller, after=command.images)

    def close(self) -> None:
        """Finish the running batch; requests that still wait get Overloaded."""
        self._batcher.close()

    def _explain_batch(self, commands: Sequence[PredictCommand]) -> Iterator[Explained]:
        for index, command in enumerate(commands):
            try:
                yield index, self._explain(command)
            except Exception as error:  # noqa: BLE001 - it is the outcome of this request
                yield index, error

    def _explain(self, command: PredictCommand) -> PredictOutcome:
        outcome = self._prediction.predict_now(command)
        version = outcome.served
        checkpoint = self._checkpoints.get(version.meta_model_digest, version.meta_model)
        folded = checkpoint.fold(self._store.served_weights(version))
        explained: list[ImagePrediction] = []
        decoded = zip(outcome.predictions, command.uploads, command.images.result(), strict=True)
        for predicted, upload, image in decoded:
            pixels = upload.at_depth(image, version.bit_depth)
            places = checkpoint.explain(folded, pixels, version.classes.index(predicted.label)).tolist()
            values = [[round(value, _DIGITS) for value in row] for row in places]
            explained.append(replace(predicted, explanation=Explanation(len(values), len(values[0]), values)))
        return replace(outcome, predictions=tuple(explained))
