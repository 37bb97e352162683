"""The samples of a version: checks of a request's labels and parts, and how stored samples and new ones are joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from service.domain.version import SampleRef, validate_label, validate_part
from service.errors import (
    ConflictingLabels,
    LabelCountMismatch,
    NoSamples,
    PartCountMismatch,
    TooFewClasses,
    TooManyClasses,
    TooManySamples,
)
from service.store.version_store import EncodedSample


@dataclass(frozen=True, slots=True)
class AdaptLimits:
    """Largest number of classes and samples of a version, stored samples included, and of inner steps."""

    max_classes: int = 64
    max_samples: int = 2000
    max_steps: int = 100

    def check(self, classes: int, samples: int) -> None:
        """Raises TooManyClasses or TooManySamples if a version would have more."""
        if classes > self.max_classes:
            raise TooManyClasses(f"the version would have {classes} classes; at most {self.max_classes} are allowed")
        if samples > self.max_samples:
            raise TooManySamples(
                f"the version would have {samples} samples, stored ones included; at most {self.max_samples} are "
                "allowed: send fewer, or start again with mode=replace"
            )


@dataclass(frozen=True, slots=True)
class Sample:
    """A labelled canonical image.

    Attributes:
        ref: its digest, label and name.
        image: uint8 (channels, height, width).
        to_store: the encoded image of a new sample; None for a sample that is stored already.
    """

    ref: SampleRef
    image: Tensor
    to_store: EncodedSample | None = None


def validate_labels(given: Sequence[str], count: int, limits: AdaptLimits) -> list[str]:
    """Return the normalised labels of `count` samples, after all checks that need no decoded image.

    Raises:
        NoSamples, LabelCountMismatch, InvalidName, TooManyClasses, TooManySamples.
    """
    if not count:
        raise NoSamples("the request has no samples; send at least one image with its label")
    if len(given) != count:
        raise LabelCountMismatch(
            f"the request has {count} samples and {len(given)} labels; send one label for each "
            "sample, in the same order"
        )
    labels = [validate_label(text) for text in given]
    limits.check(len(set(labels)), len(labels))
    return labels


def validate_parts(given: Sequence[str], count: int) -> Sequence[str | None]:
    """Return the normalised part of each of `count` samples; None for each if the request has no parts.

    Raises:
        PartCountMismatch, InvalidName.
    """
    if not given:
        return [None] * count
    if len(given) != count:
        raise PartCountMismatch(
            f"the request has {count} samples and {len(given)} parts; send one part for each sample, in the "
            "same order, or no parts"
        )
    return [validate_part(text) for text in given]


def reject_conflicting_labels(samples: Sequence[Sample]) -> None:
    """Raises ConflictingLabels if two files are the same picture and have different labels."""
    firsts: dict[str, SampleRef] = {}
    for sample in samples:
        ref = sample.ref
        first = firsts.setdefault(ref.digest, ref)
        if first.label != ref.label:
            raise ConflictingLabels(
                f"{first.name!r} with the label {first.label!r} and {ref.name!r} with the label {ref.label!r} are the "
                "same picture; send it once, with the right label"
            )


def join_samples(kept: Sequence[Sample], new: Sequence[Sample]) -> list[Sample]:
    """Return kept samples, then new ones.

    An image that is sent again counts once, with its latest label, and with the latest part, text or numbers that were
    sent for it.
    """
    stored = {sample.ref.digest for sample in kept}
    by_digest = {sample.ref.digest: sample for sample in kept}
    for sample in new:
        ref = sample.ref
        if ref.digest in by_digest:
            earlier = by_digest[ref.digest].ref
            part = earlier.part if ref.part is None else ref.part
            ref = replace(ref, part=part, second=earlier.second if ref.second is None else ref.second)
        to_store = None if ref.digest in stored else sample.to_store
        by_digest[ref.digest] = replace(sample, ref=ref, to_store=to_store)
    return list(by_digest.values())


def classes_of(samples: Sequence[Sample], limits: AdaptLimits) -> tuple[str, ...]:
    """Return the classes of the samples, in the order of their first samples.

    Raises:
        TooFewClasses, TooManyClasses, TooManySamples.
    """
    classes = tuple(dict.fromkeys(sample.ref.label for sample in samples))
    if len(classes) < 2:
        raise TooFewClasses(
            f"the version would have only the class {classes[0]!r}; send samples of at least two classes"
        )
    limits.check(len(classes), len(samples))
    return classes
