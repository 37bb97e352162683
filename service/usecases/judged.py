"""What was judged: the prediction log of a client, what its candidate said, and whether the images drift."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from models.validation.calibration import wilson_interval
from service.domain.client import validate_client_name
from service.domain.drift import Expectation, Period, by_hour, in_total
from service.domain.prediction_log import Comparison, LoggedPrediction, PredictionQuery
from service.domain.version import LIVE
from service.store.ports import utc_now
from service.store.version_store import VersionStore

MAX_DRIFT_IMAGES: Final = 20_000
"""Images that one report of drift counts at most."""


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """What would change if a candidate answered instead of a version.

    Attributes:
        counts: how many images both judged, and how.
        interval: 95 % confidence interval of the share of answers that would not change; None without images.
        changed: images whose answer would change, newest first.
    """

    counts: Comparison
    interval: tuple[float, float] | None
    changed: tuple[LoggedPrediction, ...]


@dataclass(frozen=True, slots=True)
class DriftReport:
    """What the live version said lately, beside what its validation lets expect.

    Attributes:
        version: number of the live version.
        expected: the highest shares that are no drift.
        total: all hours together.
        hours: the hours with images, oldest first.
    """

    version: int
    expected: Expectation
    total: Period
    hours: tuple[Period, ...]

    @property
    def drifting(self) -> bool:
        """Whether a share of all hours, or of the newest hour, is above the expectation."""
        return any(any(period.drifts(self.expected)) for period in (self.total, *self.hours[-1:]))


class Judged:
    """Reads the prediction log.

    Args:
        store: stores it.
        clock: the time of day, UTC.
    """

    def __init__(self, store: VersionStore, clock: Callable[[], datetime] = utc_now) -> None:
        self._store = store
        self._clock = clock

    def predictions(self, client: str, query: PredictionQuery) -> tuple[LoggedPrediction, ...]:
        """Return entries of the log, newest first. Raises UnknownClient."""
        return self._store.catalog.predictions(validate_client_name(client), query)

    def shadow(
        self, client: str, version: int, candidate: int, after: int | None = None, limit: int = 1000
    ) -> ShadowReport:
        """Return how a candidate judged the images that a version answered.

        Args:
            client: client name.
            version: number of the version that answered.
            candidate: number of the version that judged in the background.
            after: id of the changed image that the returned ones follow.
            limit: number of changed images at most.

        Raises:
            UnknownClient, UnknownVersion.
        """
        counts = self._store.catalog.compare_judgements(validate_client_name(client), version, candidate)
        query = PredictionQuery(version=version, candidate=candidate, changed=True, after=after, limit=limit)
        interval = wilson_interval(counts.agreeing / counts.images, counts.images) if counts.images else None
        return ShadowReport(counts, interval, self.predictions(client, query))

    def drift(self, client: str, hours: int = 24) -> DriftReport:
        """Return what the live version said in the last hours, of the newest `MAX_DRIFT_IMAGES` at most.

        Raises:
            UnknownClient: there is no such client.
            UnknownAlias: no version is live.
        """
        catalog, name = self._store.catalog, validate_client_name(client)
        draft = (version := catalog.version(name, catalog.alias(name, LIVE).version)).draft
        since = self._clock() - timedelta(hours=hours)
        images = catalog.recent_judgements(name, version.number, since, MAX_DRIFT_IMAGES)
        periods = tuple(by_hour(images))
        expected = Expectation.of(draft, catalog.settings(name))
        return DriftReport(version.number, expected, in_total(periods, since), periods)
