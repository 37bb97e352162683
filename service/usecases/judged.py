"""What was judged: the prediction log of a client, and how its candidate judged the same images."""

from __future__ import annotations

from dataclasses import dataclass

from models.validation.calibration import wilson_interval
from service.domain.client import validate_client_name
from service.domain.prediction_log import Comparison, LoggedPrediction, PredictionQuery
from service.store.version_store import VersionStore


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


class Judged:
    """Reads the prediction log.

    Args:
        store: stores it.
    """

    def __init__(self, store: VersionStore) -> None:
        self._store = store

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
