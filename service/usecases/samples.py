"""Which labelled images a version is made of: those of a request, decoded, joined with those that are kept already.

It knows neither inner loops nor what becomes of the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from service.domain.names import validate_label
from service.domain.version import SampleRef, Version
from service.errors import (
    LabelCountMismatch,
    NoSamples,
    SamplesNotKept,
    TooFewClasses,
    TooManyClasses,
    TooManySamples,
)
from service.runtime.decoding.decoder import Decoder
from service.store.version_store import VersionStore
from service.usecases.uploads import Upload, decode_upload


@dataclass(frozen=True, slots=True)
class Sample:
    """A labelled canonical image, uint8 (channels, height, width), kept already or new."""

    ref: SampleRef
    image: Tensor


@dataclass(frozen=True, slots=True)
class Samples:
    """Where samples come from, and how many a version may have.

    Attributes:
        store: where they are kept.
        decoder: turns bytes into images.
        max_classes: of one version.
        max_samples: of one version, kept ones included.
    """

    store: VersionStore
    decoder: Decoder
    max_classes: int
    max_samples: int

    def labels(self, uploads: Sequence[Upload], given: Sequence[str]) -> list[str]:
        """The labels, as class names; checked as far as it goes without looking at an image.

        Raises:
            NoSamples, LabelCountMismatch, InvalidName, TooManyClasses, TooManySamples.
        """
        if not uploads:
            raise NoSamples("no samples came; send at least one image with its label")
        if len(given) != len(uploads):
            raise LabelCountMismatch(
                f"{len(uploads)} samples came with {len(given)} labels; send one label a sample, in the same order"
            )
        labels = [validate_label(text) for text in given]
        self._refuse_more_than_allowed(len(set(labels)), len(labels))
        return labels

    def decoded(self, uploads: Sequence[Upload], labels: Sequence[str]) -> list[Sample]:
        """The samples of a request. Raises ImageRejected, DecoderUnavailable."""
        samples = []
        for upload, label in zip(uploads, labels, strict=True):
            image = decode_upload(upload, self.decoder)
            samples.append(Sample(SampleRef(self.store.sample_digest(image), label, upload.name), image))
        return samples

    def kept(self, parent: Version | None) -> list[Sample]:
        """The samples of a version that is extended.

        Raises:
            SamplesNotKept: its client keeps none.
            VersionCorrupt, StoreUnavailable: they cannot be read.
        """
        if parent is None:
            return []
        client = parent.draft.client
        if not parent.draft.samples_kept:
            raise SamplesNotKept(
                f"client {client!r} keeps no samples (its setting retain_samples), so its version {parent.number} "
                "cannot be extended; send the samples of every class together, with mode=replace"
            )
        return [Sample(ref, self.store.sample(client, ref.digest)) for ref in parent.draft.samples]

    def classes(self, samples: Sequence[Sample]) -> tuple[str, ...]:
        """The samples' classes, in the order in which they come first.

        Raises:
            TooFewClasses, TooManyClasses, TooManySamples.
        """
        classes = tuple(dict.fromkeys(sample.ref.label for sample in samples))
        if len(classes) < 2:
            raise TooFewClasses(
                f"only the class {classes[0]!r} is known after this request; send samples of at least two classes"
            )
        self._refuse_more_than_allowed(len(classes), len(samples))
        return classes

    def _refuse_more_than_allowed(self, classes: int, samples: int) -> None:
        if classes > self.max_classes:
            raise TooManyClasses(f"{classes} classes after this request; at most {self.max_classes}")
        if samples > self.max_samples:
            raise TooManySamples(
                f"{samples} samples after this request, kept ones included; at most {self.max_samples}: send "
                "fewer, or start afresh with mode=replace"
            )


def joined(kept: Sequence[Sample], new: Sequence[Sample]) -> list[Sample]:
    """Kept samples, then new ones; an image that comes again counts once, under the label given last."""
    by_digest: dict[str, Sample] = {}
    for sample in [*kept, *new]:
        by_digest[sample.ref.digest] = sample
    return list(by_digest.values())
