"""Compares two versions of a client from their records: classes, accuracy by class, and changed predictions.

A *kept* sample is one that both versions were adapted on.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from service.domain.report import ClassEstimate, HeldOutPrediction, class_estimates, held_out_predictions
from service.domain.version import Lineage, SampleRef, Version, VersionDraft


@dataclass(frozen=True, slots=True)
class ClassDiff:
    """A class of either version; None in the version that does not have it."""

    label: str
    before: ClassEstimate | None
    after: ClassEstimate | None


@dataclass(frozen=True, slots=True)
class SampleDiff:
    """A kept sample whose label or prediction changed.

    Attributes:
        sample: as the later version has it.
        label_before: its label in the earlier version.
        before: its held-out prediction in the earlier version, or None.
        after: its held-out prediction in the later version, or None.
    """

    sample: SampleRef
    label_before: str
    before: HeldOutPrediction | None
    after: HeldOutPrediction | None


@dataclass(frozen=True, slots=True)
class VersionDiff:
    """The changes from one version to another.

    Attributes:
        before: the earlier version.
        after: the later version.
        added: classes that only `after` has, in its order.
        removed: classes that only `before` has, in its order.
        classes: every class of either.
        kept: number of samples that both have.
        samples_added: number of samples that only `after` has.
        samples_removed: number of samples that only `before` has.
        changed: kept samples whose label or prediction changed.
    """

    before: Version
    after: Version
    added: tuple[str, ...]
    removed: tuple[str, ...]
    classes: tuple[ClassDiff, ...]
    kept: int
    samples_added: int
    samples_removed: int
    changed: tuple[SampleDiff, ...]


@dataclass(frozen=True, slots=True)
class KeptSamples:
    """Predictions for the kept samples of one class that both versions held out, under the same label.

    Attributes:
        label: the class.
        outcomes: whether the folds of the earlier and of the later version predicted each sample correctly.
    """

    label: str
    outcomes: tuple[tuple[bool, bool], ...]

    def to_json(self) -> dict[str, Any]:
        """Return the label and the counts as the report has them."""
        return {
            "label": self.label,
            "judged": self.total,
            "before": self.correct_before,
            "after": self.correct_after,
        }

    @property
    def total(self) -> int:
        """Number of samples."""
        return len(self.outcomes)

    @property
    def correct_before(self) -> int:
        """How many the folds of the earlier version predicted correctly."""
        return sum(before for before, _ in self.outcomes)

    @property
    def correct_after(self) -> int:
        """How many the folds of the later version predicted correctly."""
        return sum(after for _, after in self.outcomes)

    @property
    def lost(self) -> float:
        """Share of the samples that are no longer predicted correctly; negative if more are correct than before."""
        return (self.correct_before - self.correct_after) / self.total

    @property
    def p_value(self) -> float:
        """Probability of as many newly wrong samples if both versions are equally good.

        The exact one-sided test of McNemar (1947): a sample whose prediction changed between right and wrong did so in
        either direction with equal probability.
        """
        changed = sum(before != after for before, after in self.outcomes)
        worse = sum(before and not after for before, after in self.outcomes)
        return 0.5**changed * sum(math.comb(changed, count) for count in range(worse, changed + 1))


def compare(before: Version, after: Version) -> VersionDiff:
    """Return the changes from `before` to `after`."""
    old, new = before.draft, after.draft
    old_estimates, new_estimates = class_estimates(old), class_estimates(new)
    old_digests, new_digests = ({sample.digest for sample in draft.samples} for draft in (old, new))
    return VersionDiff(
        before=before,
        after=after,
        added=tuple(label for label in new.classes if label not in old.classes),
        removed=tuple(label for label in old.classes if label not in new.classes),
        classes=tuple(
            ClassDiff(label, old_estimates.get(label), new_estimates.get(label))
            for label in dict.fromkeys([*old.classes, *new.classes])
        ),
        kept=len(old_digests & new_digests),
        samples_added=len(new_digests - old_digests),
        samples_removed=len(old_digests - new_digests),
        changed=tuple(_changed(old, new)),
    )


def compare_kept_samples(before: VersionDraft, after: VersionDraft) -> Sequence[KeptSamples]:
    """Compare, class by class, the predictions for samples that both versions held out under the same label."""
    old, new = held_out_predictions(before), held_out_predictions(after)
    old_labels = {sample.digest: sample.label for sample in before.samples}
    found: defaultdict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for sample in after.samples:
        digest, label = sample.digest, sample.label
        if old_labels.get(digest) == label and digest in old and digest in new:
            found[label].append((old[digest].label == label, new[digest].label == label))
    return [KeptSamples(label, tuple(outcomes)) for label, outcomes in found.items()]


def left_out(lineage: Lineage, draft: VersionDraft) -> tuple[SampleRef, ...]:
    """Return the samples of the newest version that an extension of an older one does not have with that label."""
    if lineage.newest is None or lineage.base is None or draft.parent is None:
        return ()
    labels, base_labels = ({each.digest: each.label for each in one.samples} for one in (draft, lineage.base.draft))
    return tuple(
        sample
        for sample in lineage.newest.draft.samples
        if labels.get(sample.digest) != sample.label and base_labels.get(sample.digest) == labels.get(sample.digest)
    )


def _changed(before: VersionDraft, after: VersionDraft) -> Iterator[SampleDiff]:
    old, new = held_out_predictions(before), held_out_predictions(after)
    old_labels = {sample.digest: sample.label for sample in before.samples}
    for sample in after.samples:
        if sample.digest not in old_labels:
            continue
        diff = SampleDiff(sample, old_labels[sample.digest], old.get(sample.digest), new.get(sample.digest))
        if diff.label_before != sample.label or _verdict(diff.before) != _verdict(diff.after):
            yield diff


def _verdict(prediction: HeldOutPrediction | None) -> tuple[str, bool] | None:
    return None if prediction is None else (prediction.label, prediction.known)
