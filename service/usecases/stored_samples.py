"""The samples that a client's next extension would build on: listed with what is known about each, and as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.images.encoding import encode_png
from service.domain.client import validate_client_name
from service.domain.report import HeldOutPrediction, held_out_predictions, suspects
from service.domain.version import Lineage, SampleRef, Version
from service.errors import SamplesNotKept, UnknownSample
from service.store.version_store import VersionStore


@dataclass(frozen=True, slots=True)
class StoredSample:
    """A stored sample and what a version found out about it.

    Attributes:
        sample: its digest, label, name and part.
        first_version: the first version that was adapted on it.
        held_out: the prediction by the fold that left it out; None if there was none.
        suspect: whether its label is probably wrong.
    """

    sample: SampleRef
    first_version: int
    held_out: HeldOutPrediction | None
    suspect: bool


@dataclass(frozen=True, slots=True)
class SamplePage:
    """A page of the samples of a client.

    Attributes:
        judged_by: the version whose folds predicted the samples, or None.
        samples: ordered by digest.
    """

    judged_by: int | None
    samples: Sequence[StoredSample]


class StoredSamples:
    """Reads stored samples. Thread-safe."""

    def __init__(self, store: VersionStore) -> None:
        self._store = store

    def page(
        self,
        client: str,
        *,
        label: str | None = None,
        version: int | None = None,
        after: str = "",
        limit: int | None = None,
    ) -> SamplePage:
        """Return the samples that an extension would build on, ordered by digest.

        Args:
            client: client name.
            label: only samples with this label.
            version: the version that judges them; None is the live one, or else the newest.
            after: only samples whose digests follow this one.
            limit: number of samples at most; None is all.

        Raises:
            UnknownClient, UnknownVersion: there is no such client or version.
            SamplesNotKept: the client keeps no samples.
        """
        lineage = self._store.catalog.lineage(validate_client_name(client))
        self._require_samples(client, lineage.base)
        judge = self._judge(client, lineage, version)
        if lineage.base is None:
            return SamplePage(None, ())
        kept = sorted(lineage.base.draft.samples, key=lambda sample: sample.digest)
        found = [sample for sample in kept if sample.digest > after and label in (None, sample.label)][:limit]
        first = self._store.catalog.first_versions(client)
        held_out = {} if judge is None else held_out_predictions(judge.draft)
        suspected = frozenset() if judge is None else suspects(judge.draft)
        samples = [
            StoredSample(
                sample,
                first.get(sample.digest, lineage.base.number),
                held_out.get(sample.digest),
                sample.digest in suspected,
            )
            for sample in found
        ]
        return SamplePage(None if judge is None else judge.number, samples)

    def picture(self, client: str, digest: str, max_side: int | None = None) -> bytes:
        """Return a stored sample of any version as a PNG; with `max_side` at most so many pixels wide and high.

        Raises:
            UnknownClient, UnknownSample, SamplesNotKept: see `check`.
        """
        self.check(client, digest)
        return encode_png(self._store.sample(client, digest), max_side)

    def check(self, client: str, digest: str) -> None:
        """Check that a picture exists.

        Raises:
            UnknownClient: there is no such client.
            UnknownSample: no version of the client has a stored sample with that digest.
            SamplesNotKept: the client keeps no samples.
        """
        self._require_samples(validate_client_name(client))
        if digest not in self._store.catalog.first_versions(client, digest):
            raise UnknownSample(
                f"client {client!r} has no stored sample {digest[:64]!r}; list them with GET /clients/{client}/samples"
            )

    def _judge(self, client: str, lineage: Lineage, version: int | None) -> Version | None:
        if version is None:
            return lineage.compared
        known = {each.number: each for each in (lineage.live, lineage.base, lineage.newest) if each is not None}
        return known.get(version) or self._store.catalog.version(client, version)

    def _require_samples(self, client: str, base: Version | None = None) -> None:
        """Check that the client keeps samples, and `base` its own. Raises UnknownClient, SamplesNotKept."""
        retains = self._store.catalog.settings(client).retain_samples
        if retains and (base is None or base.draft.samples_kept):
            return
        send = "send the samples of every class together, with mode=replace"
        if retains:
            raise SamplesNotKept(
                f"the samples of client {client!r} were deleted while its setting retain_samples was false, so there "
                f"are none to list, show or correct; {send}"
            )
        raise SamplesNotKept(
            f"client {client!r} keeps no samples (its setting retain_samples), so there are none to list, show or "
            f"correct; set retain_samples to true and {send}"
        )
