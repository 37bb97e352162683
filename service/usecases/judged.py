"""What was judged: the prediction log of a client, what its candidate said, and whether the images drift."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from models.validation.calibration import wilson_interval
from service.domain.client import validate_client_name
from service.domain.drift import Expectation, Period, by_hour, in_total
from service.domain.prediction_log import Comparison, LoggedPrediction, PredictionQuery
from service.domain.version import LIVE, Version
from service.errors import UnknownAlias, UnknownClient, UnknownVersion
from service.store.ports import utc_now
from service.store.version_store import VersionStore

MAX_DRIFT_IMAGES: Final = 20_000
"""Images that one report of drift counts at most."""

DRIFT_HOURS: Final = 24


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

    def drift(self, client: str, hours: int = DRIFT_HOURS) -> DriftReport:
        """Return what the live version said in the last hours, of the newest `MAX_DRIFT_IMAGES` at most.

        Raises:
            UnknownClient: there is no such client.
            UnknownAlias: no version is live.
        """
        name = validate_client_name(client)
        version, since = self._live(name), self._clock() - timedelta(hours=hours)
        images = self._store.catalog.recent_judgements(name, version.number, since, MAX_DRIFT_IMAGES)
        return self._report(version, since, by_hour(images))

    def drift_of(self, clients: Collection[str]) -> Mapping[str, bool]:
        """Return whether clients drift, of those that judged images in the last day.

        Of all clients together it looks at the newest `MAX_DRIFT_IMAGES` images, so that it may be asked often.
        """
        since = self._clock() - timedelta(hours=DRIFT_HOURS)
        found: dict[str, bool] = {}
        for name, periods in self._store.catalog.live_hours(clients, since, MAX_DRIFT_IMAGES).items():
            with suppress(UnknownClient, UnknownAlias, UnknownVersion):  # it was deleted in the meantime
                found[name] = self._report(self._live(name), since, periods).drifting
        return found

    def _live(self, client: str) -> Version:
        catalog = self._store.catalog
        return catalog.version(client, catalog.alias(client, LIVE).version)

    def _report(self, version: Version, since: datetime, hours: Sequence[Period]) -> DriftReport:
        expected = Expectation.of(version.draft, self._store.catalog.settings(version.draft.client))
        return DriftReport(version.number, expected, in_total(hours, since), tuple(hours))
