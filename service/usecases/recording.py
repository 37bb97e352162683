"""Records predictions in the background: a request waits neither for the disk nor for the judgement of the candidate.

While the alias `candidate` names another version than the live one, that version judges the images of each request to
the live version too, in moments without requests, or after two seconds an image in a service that has none. Its
judgement is recorded beside the answer. What does not fit into the queues is dropped, counted and warned about.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import structlog

from models.errors import AnoleError
from service.domain.prediction_log import Judgement, LoggedPrediction
from service.domain.version import LIVE
from service.runtime.background import BackgroundQueue, QueueLimits
from service.store.ports import utc_now
from service.usecases.predict import CandidatePredicting, PredictCommand, PredictOutcome

LOG_LIMITS: Final = QueueLimits(size=4096, size_bytes=64 << 20, batch_size=512, gather_s=1.0)
"""In images, and in bytes of their files, which are kept until their digests are known."""

SHADOW_LIMITS: Final = QueueLimits(size=64, size_bytes=64 << 20, batch_size=1)
"""Images that wait for the candidate."""

QUIET_S: Final = 0.02
"""Pause without requests before the candidate judges, longer than a fast sender pauses between two requests."""

PATIENCE_S: Final = 2.0
"""How long each image waits for such a pause. Then the candidate judges it beside the requests: an image in two seconds
takes about one per cent of a core."""

_CANDIDATE_WARNING_S: Final = 60.0

Write = Callable[[Sequence[LoggedPrediction]], int]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the images of a request came from.

    Attributes:
        parts: the part that each image shows, empty for none; or no names at all.
        station: where they were taken, or None.
        request_id: of the HTTP request, or None.
    """

    parts: tuple[str, ...] = ()
    station: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A request whose images are to be recorded."""

    outcome: PredictOutcome
    origin: Origin
    at: datetime
    candidate: PredictOutcome | None = None

    @property
    def command(self) -> PredictCommand:
        return self.outcome.command

    def entries(self) -> list[LoggedPrediction]:
        served, created_at = self.outcome.served, self.outcome.served.client_created_at
        answers = _judgements(self.outcome)
        candidates = [None] * len(answers) if self.candidate is None else _judgements(self.candidate)
        parts = self.origin.parts or ("",) * len(answers)
        if created_at is None:
            return []
        return [
            LoggedPrediction(
                client=served.client,
                client_created_at=created_at,
                at=self.at,
                image_digest=hashlib.sha256(upload.content).hexdigest(),
                part=part or None,
                station=self.origin.station,
                request_id=self.origin.request_id,
                judgement=answer,
                candidate=candidate,
            )
            for upload, part, answer, candidate in zip(self.command.uploads, parts, answers, candidates, strict=True)
        ]


class PredictionRecorder:
    """Records the answers to requests whose client wants that. Thread-safe.

    Args:
        write: stores entries and returns how many; those of deleted clients are left out.
        prediction: predicts with the candidate.
        clock: the time that entries carry.
        patience_s: see `PATIENCE_S`.
    """

    def __init__(
        self,
        write: Write,
        prediction: CandidatePredicting,
        clock: Callable[[], datetime] = utc_now,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._store = write
        self._prediction = prediction
        self._clock = clock
        self._patience_s = patience_s
        self._written = self._lost = self._compared = self._failed = 0
        self._warned_at_s = -_CANDIDATE_WARNING_S
        self._log = structlog.get_logger("anole.predictions")
        self._entries = BackgroundQueue("prediction log", self._write, LOG_LIMITS)
        self._shadow = BackgroundQueue("candidate", self._judge, SHADOW_LIMITS)

    def record(self, outcome: PredictOutcome, origin: Origin) -> None:
        """Queue the answer to a request, if its client logs predictions or has a candidate. Never waits."""
        served = outcome.served
        shadowed = served.candidate is not None and outcome.command.reference == LIVE
        if served.logged or shadowed:
            recorded = _Recorded(outcome, origin, self._clock())
            if not (shadowed and self._shadow.put(recorded, *_size(recorded))):
                self._entries.put(recorded, *_size(recorded))

    def metrics(self) -> Mapping[str, float]:
        """Counters by name."""
        return {
            "predictions_logged_total": self._written,
            "predictions_dropped_total": self._entries.dropped + self._lost,
            "candidate_judged_total": self._compared,
            "candidate_dropped_total": self._shadow.dropped + self._failed,
        }

    def close(self) -> None:
        """Write what waits."""
        self._shadow.close()
        self._entries.close()

    def _write(self, recorded: Sequence[_Recorded]) -> None:
        entries = [entry for each in recorded for entry in each.entries()]
        try:
            self._written += self._store(entries)
        except AnoleError as error:
            self._lost += len(entries)
            self._log.warning("predictions were not logged", dropped=len(entries), reason=str(error))

    def _judge(self, recorded: Sequence[_Recorded]) -> None:
        """Predict with the candidate of each request, one at a time, and queue the entries."""
        for each in recorded:
            images = len(each.command.uploads)
            self._prediction.in_flight.wait_until_quiet(QUIET_S, self._patience_s * images)
            judged = self._predict(each)
            self._compared += images if judged is not None else 0
            self._failed += images if judged is None else 0
            self._entries.put(replace(each, candidate=judged), *_size(each))

    def _predict(self, recorded: _Recorded) -> PredictOutcome | None:
        """Return what the candidate predicts; None if it fails, which is logged."""
        command = replace(recorded.command, reference=str(recorded.outcome.served.candidate))
        try:
            return self._prediction.predict_now(command)
        except Exception as error:  # noqa: BLE001 - the answer is recorded without the candidate
            self._warn(recorded, error)
            return None

    def _warn(self, recorded: _Recorded, error: Exception) -> None:
        if time.monotonic() - self._warned_at_s >= _CANDIDATE_WARNING_S:
            self._warned_at_s = time.monotonic()
            served = recorded.outcome.served
            self._log.warning(
                "the candidate could not judge", client=served.client, version=served.candidate, reason=str(error)
            )


def _size(recorded: _Recorded) -> tuple[int, int]:
    """Return the images of a request, and the bytes of their files."""
    uploads = recorded.command.uploads
    return len(uploads), sum(len(upload.content) for upload in uploads)


def _judgements(outcome: PredictOutcome) -> list[Judgement]:
    return [
        Judgement(outcome.version, each.label, each.confidence, each.unknown_score, each.verdict)
        for each in outcome.predictions
    ]
