"""Recording of predictions: what cannot be recorded is counted and warned about, and no request notices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from service.domain.prediction import ImagePrediction
from service.domain.prediction_log import LoggedPrediction
from service.domain.version import LIVE, ServedVersion
from service.errors import StoreUnavailable, UnknownVersion
from service.runtime.decoder import Upload
from service.runtime.quiet import InFlight
from service.usecases.predict import PredictCommand, Prediction, PredictOutcome
from service.usecases.recording import LOG_LIMITS, Origin, PredictionRecorder

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def outcome(images: int = 1, *, logged: bool = True, candidate: int | None = None, size: int = 1) -> PredictOutcome:
    served = ServedVersion(
        "line", 1, ("a",), "tiny", "d", "w", None, client_created_at=NOON, logged=logged, candidate=candidate
    )
    command = PredictCommand("line", (Upload("a.png", bytes(size)),) * images, LIVE, Future())
    return PredictOutcome(served, (ImagePrediction("a.png", "a", 1.0, {"a": 1.0}, None, None),) * images, 0.0, command)


class CandidatePrediction(Prediction):
    """Predicts as candidate, or has the error that a test sets as each outcome."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.in_flight = InFlight()

    def predict_batch(self, commands: Sequence[PredictCommand]) -> Iterator[tuple[int, Any]]:
        for index, command in enumerate(commands):
            yield index, self.error or outcome(len(command.uploads))


class Store:
    """Keeps entries, or raises the error that a test sets."""

    def __init__(self) -> None:
        self.entries: list[LoggedPrediction] = []
        self.raises: Exception | None = None

    def __call__(self, entries: Sequence[LoggedPrediction]) -> int:
        if self.raises is not None:
            raise self.raises
        self.entries += entries
        return len(entries)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def prediction() -> CandidatePrediction:
    return CandidatePrediction()


@pytest.fixture
def recorder(store: Store, prediction: CandidatePrediction) -> Iterator[PredictionRecorder]:
    made = PredictionRecorder(store, prediction, clock=lambda: NOON)
    yield made
    made.close()


def test_only_clients_that_want_it_are_recorded(recorder: PredictionRecorder, store: Store) -> None:
    recorder.record(outcome(logged=False), Origin())
    recorder.record(outcome(2), Origin(("0417", ""), "camera", "r1"))
    recorder.close()
    assert [(each.part, each.station, each.request_id, each.at) for each in store.entries] == [
        ("0417", "camera", "r1", NOON),
        (None, "camera", "r1", NOON),
    ]
    assert recorder.metrics()["predictions_logged_total"] == 2


def test_entries_that_the_store_does_not_take_are_counted_and_warned_about(
    recorder: PredictionRecorder, store: Store
) -> None:
    store.raises = StoreUnavailable("the disk is gone")
    with structlog.testing.capture_logs() as lines:
        recorder.record(outcome(3), Origin())
        recorder.close()
    assert recorder.metrics()["predictions_dropped_total"] == 3
    assert [(line["dropped"], line["reason"]) for line in lines] == [(3, "the disk is gone")]


def test_files_that_exceed_the_memory_for_them_are_dropped(recorder: PredictionRecorder, store: Store) -> None:
    recorder.record(outcome(size=LOG_LIMITS.size_bytes + 1), Origin())
    recorder.close()
    assert store.entries == []
    assert recorder.metrics()["predictions_dropped_total"] == 1


def test_a_candidate_that_fails_leaves_the_answer_recorded_without_it(
    recorder: PredictionRecorder, store: Store, prediction: CandidatePrediction
) -> None:
    prediction.error = UnknownVersion("version 2 was deleted")
    with structlog.testing.capture_logs() as lines:
        recorder.record(outcome(2, logged=False, candidate=2), Origin())
        recorder.close()
    assert [each.candidate for each in store.entries] == [None, None]
    assert recorder.metrics()["candidate_dropped_total"] == 2
    assert [(line["client"], line["version"]) for line in lines] == [("line", 2)]


def test_a_candidate_judges_some_images_of_a_service_that_is_never_quiet(
    store: Store, prediction: CandidatePrediction
) -> None:
    prediction.in_flight.add(Future())
    recorder = PredictionRecorder(store, prediction, patience_s=0.01)
    recorder.record(outcome(2, candidate=2), Origin())
    recorder.close()
    assert [each.candidate is not None for each in store.entries] == [True, True]
    assert recorder.metrics()["candidate_judged_total"] == 2


def test_images_that_the_candidate_has_no_time_for_are_recorded_without_it(
    recorder: PredictionRecorder, store: Store
) -> None:
    recorder.record(outcome(65, candidate=2), Origin())
    recorder.close()
    assert len(store.entries) == 65
    assert {each.candidate for each in store.entries} == {None}
    assert recorder.metrics()["candidate_dropped_total"] == 65
