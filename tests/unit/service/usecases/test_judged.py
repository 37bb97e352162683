"""What the prediction log tells: what a candidate would change, and whether images drift."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Final

import pytest

from models.validation.calibration import wilson_interval
from service.domain.prediction_log import Judgement, LoggedPrediction, PredictionQuery, Retention
from service.domain.version import LIVE
from service.errors import InvalidName, UnknownAlias, UnknownClient
from service.store.ports import utc_now
from service.store.version_store import VersionStore
from service.usecases.judged import Judged
from tests.contract.values import CLIENT, a_draft, digest_of

KEPT: Final = Retention(days=90, rows=1000)
ANY: Final = PredictionQuery()


@pytest.fixture
def judged(store: VersionStore) -> Judged:
    """The log of a client with two versions; the first one is live."""
    store.catalog.publish(replace(a_draft(), report={"interval": [0.9, 1.0]}), [LIVE])
    store.catalog.publish(a_draft(), [])
    return Judged(store)


def log(store: VersionStore, *candidates: str, hours_ago: float = 0.0) -> None:
    """Log a "dent" of version 1 for each label that version 2 gave."""
    answer = Judgement(1, "dent", 1.0, 0.1, "known")
    created_at, at = store.catalog.client(CLIENT).created_at, utc_now() - timedelta(hours=hours_ago)
    one = LoggedPrediction(CLIENT, created_at, at, digest_of("file"), None, None, None, answer)
    entries = [replace(one, candidate=replace(answer, version=2, label=label)) for label in candidates]
    store.catalog.add_predictions(entries, KEPT)


def test_a_shadow_report_has_what_a_candidate_would_change(store: VersionStore, judged: Judged) -> None:
    log(store, "dent", "scratch", "dent", "hole")
    report = judged.shadow(CLIENT, 1, 2)
    assert (report.counts.images, report.counts.agreeing) == (4, 2)
    assert report.interval == wilson_interval(0.5, 4)
    assert [one.candidate.label for one in report.changed if one.candidate is not None] == ["hole", "scratch"]
    (newest,) = judged.shadow(CLIENT, 1, 2, limit=1).changed
    assert newest == report.changed[0]
    assert judged.shadow(CLIENT, 1, 2, after=newest.id).changed == report.changed[1:]
    assert judged.predictions(CLIENT, PredictionQuery(limit=1)) == report.changed[:1]


def test_a_shadow_report_without_images_has_no_interval(store: VersionStore, judged: Judged) -> None:
    log(store, "scratch")
    report = judged.shadow(CLIENT, 2, 1)
    assert (report.counts.images, report.interval, report.changed) == (0, None, ())


def test_drift_is_that_of_the_hours_that_were_asked_for(store: VersionStore, judged: Judged) -> None:
    log(store, *["dent"] * 3, hours_ago=30)
    log(store, *["dent"] * 2)
    assert (judged.drift(CLIENT).version, judged.drift(CLIENT).total.images) == (1, 2)
    assert judged.drift(CLIENT, hours=48).total.images == 5
    assert [hour.images for hour in judged.drift(CLIENT, hours=48).hours] == [3, 2]


def test_clients_without_a_live_version_and_unknown_ones_are_errors(store: VersionStore, judged: Judged) -> None:
    store.catalog.publish(a_draft("line-2"), [])
    with pytest.raises(UnknownAlias):
        judged.drift("line-2")
    with pytest.raises(UnknownClient):
        judged.drift("missing")
    for call in (judged.drift, lambda name: judged.shadow(name, 1, 2), lambda name: judged.predictions(name, ANY)):
        with pytest.raises(InvalidName):
            call("No name")
