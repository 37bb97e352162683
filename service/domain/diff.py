"""Two versions of a client, side by side: classes, how each fares, and the samples that are judged differently.

Everything comes from the records of both; no net runs. A *kept* sample is one that both versions learned from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from service.domain.report import ClassEstimate, HeldOutPrediction, class_estimates, held_out
from service.domain.version import SampleRef, Version, VersionDraft


@dataclass(frozen=True, slots=True)
class ClassDiff:
    """A class in either version; None where it does not have it."""

    label: str
    before: ClassEstimate | None
    after: ClassEstimate | None


@dataclass(frozen=True, slots=True)
class SampleDiff:
    """A kept sample that was relabelled or is judged differently.

    Attributes:
        sample: as the later version has it.
        label_before: its label in the earlier version.
        before: what a fold that had not seen it said then; None if it was not judged.
        after: the same of the later version.
    """

    sample: SampleRef
    label_before: str
    before: HeldOutPrediction | None
    after: HeldOutPrediction | None


@dataclass(frozen=True, slots=True)
class VersionDiff:
    """What changes from one version to another.

    Attributes:
        before: the version asked for first.
        after: the other.
        added: classes that only `after` has, in its order.
        removed: classes that only `before` has, in its order.
        classes: every class of either.
        kept: how many samples both have.
        samples_added: how many only `after` has.
        samples_removed: how many only `before` has.
        changed: kept samples whose label or verdict changes.
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
class KeptClass:
    """How the kept samples of one class fare, of those that both versions judged.

    Attributes:
        label: the class.
        judged: how many samples.
        right_before: of them, named rightly by folds of the earlier version.
        right_after: of them, named rightly by folds of the later one.
    """

    label: str
    judged: int
    right_before: int
    right_after: int

    @property
    def dropped(self) -> float:
        """Share of its samples lost; negative if there are more right than before."""
        return (self.right_before - self.right_after) / self.judged


def compare(before: Version, after: Version) -> VersionDiff:
    """What changes from `before` to `after`."""
    old, new = before.draft, after.draft
    estimates = class_estimates(old), class_estimates(new)
    labels = dict.fromkeys([*old.classes, *new.classes])
    digests = {sample.digest for sample in old.samples}, {sample.digest for sample in new.samples}
    return VersionDiff(
        before=before,
        after=after,
        added=tuple(label for label in new.classes if label not in old.classes),
        removed=tuple(label for label in old.classes if label not in new.classes),
        classes=tuple(ClassDiff(label, *(of.get(label) for of in estimates)) for label in labels),
        kept=len(digests[0] & digests[1]),
        samples_added=len(digests[1] - digests[0]),
        samples_removed=len(digests[0] - digests[1]),
        changed=tuple(_changed(old, new)),
    )


def kept_classes(before: VersionDraft, after: VersionDraft) -> Mapping[str, KeptClass]:
    """Class name -> how its kept samples fare; only classes with samples that both judged under the same label."""
    old, new = held_out(before), held_out(after)
    labels = {sample.digest: sample.label for sample in before.samples}
    found: dict[str, KeptClass] = {}
    for sample in after.samples:
        digest, label = sample.digest, sample.label
        if labels.get(digest) != label or digest not in old or digest not in new:
            continue
        so_far = found.get(label, KeptClass(label, 0, 0, 0))
        found[label] = KeptClass(
            label,
            so_far.judged + 1,
            so_far.right_before + (old[digest].label == label),
            so_far.right_after + (new[digest].label == label),
        )
    return found


def _changed(before: VersionDraft, after: VersionDraft) -> Iterator[SampleDiff]:
    old, new = held_out(before), held_out(after)
    labels = {sample.digest: sample.label for sample in before.samples}
    for sample in after.samples:
        if sample.digest not in labels:
            continue
        diff = SampleDiff(sample, labels[sample.digest], old.get(sample.digest), new.get(sample.digest))
        relabelled = diff.label_before != sample.label
        if relabelled or _verdict(diff.before) != _verdict(diff.after):
            yield diff


def _verdict(answer: HeldOutPrediction | None) -> tuple[str, bool] | None:
    return None if answer is None else (answer.label, answer.known)
