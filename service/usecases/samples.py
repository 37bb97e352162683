"""The samples of a version: those of the request joined with those that are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from service.domain.version import SampleRef, Version, validate_label
from service.errors import (
    LabelCountMismatch,
    NoSamples,
    SamplesNotKept,
    TooFewClasses,
    TooManyClasses,
    TooManySamples,
)
from service.runtime.decoding.decoder import Decoder, Upload
from service.store.version_store import EncodedSample, VersionStore, encode_sample


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


@dataclass(frozen=True, slots=True)
class Samples:
    """Reads samples from requests and from the store, within limits.

    Attributes:
        store: holds the samples of earlier versions.
        decoder: turns bytes into images.
        max_classes: limit of one version.
        max_samples: limit of one version, stored samples included.
    """

    store: VersionStore
    decoder: Decoder
    max_classes: int
    max_samples: int

    def labels(self, uploads: Sequence[Upload], given: Sequence[str]) -> list[str]:
        """Return the normalised labels, after all checks that need no decoded image.

        Raises:
            NoSamples, LabelCountMismatch, InvalidName, TooManyClasses, TooManySamples.
        """
        if not uploads:
            raise NoSamples("the request has no samples; send at least one image with its label")
        if len(given) != len(uploads):
            raise LabelCountMismatch(
                f"the request has {len(uploads)} samples and {len(given)} labels; send one label for each "
                "sample, in the same order"
            )
        labels = [validate_label(text) for text in given]
        self._check_limits(len(set(labels)), len(labels))
        return labels

    def decoded(self, uploads: Sequence[Upload], labels: Sequence[str]) -> list[Sample]:
        """Decode the samples of a request. Raises ImageRejected, DecoderUnavailable."""
        samples = []
        for upload, label in zip(uploads, labels, strict=True):
            image = upload.decode(self.decoder)
            encoded = encode_sample(image)
            samples.append(Sample(SampleRef(encoded.digest, label, upload.name), image, encoded))
        return samples

    def kept(self, parent: Version | None) -> list[Sample]:
        """Read the samples of the version that is extended.

        Raises:
            SamplesNotKept: the client's settings retain no samples.
            VersionCorrupt, StoreUnavailable: a sample cannot be read.
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
        """Return the samples' classes, in the order of their first samples.

        Raises:
            TooFewClasses, TooManyClasses, TooManySamples.
        """
        classes = tuple(dict.fromkeys(sample.ref.label for sample in samples))
        if len(classes) < 2:
            raise TooFewClasses(
                f"the version would have only the class {classes[0]!r}; send samples of at least two classes"
            )
        self._check_limits(len(classes), len(samples))
        return classes

    def _check_limits(self, classes: int, samples: int) -> None:
        if classes > self.max_classes:
            raise TooManyClasses(f"the version would have {classes} classes; at most {self.max_classes} are allowed")
        if samples > self.max_samples:
            raise TooManySamples(
                f"the version would have {samples} samples, stored ones included; at most {self.max_samples} are "
                "allowed: send fewer, or start again with mode=replace"
            )


def joined(kept: Sequence[Sample], new: Sequence[Sample]) -> list[Sample]:
    """Return kept samples, then new ones. An image that is sent again counts once, with its latest label."""
    stored = {sample.ref.digest: sample for sample in kept}
    by_digest = dict(stored)
    for sample in new:
        digest = sample.ref.digest
        by_digest[digest] = replace(sample, to_store=None) if digest in stored else sample
    return list(by_digest.values())
