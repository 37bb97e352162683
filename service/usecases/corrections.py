"""POST /clients/{client}/corrections: other labels for stored samples, and samples to leave out.

`Adaptation` applies them to the samples that an extension builds on, and adapts again on the result.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from service.domain.reason import Reason, first_of
from service.domain.version import SampleRef, validate_label
from service.errors import InvalidRequest, NothingToCorrect, TooFewClasses, UnknownSample

_MOST_NAMED = 50
"""Digests that one error names."""


@dataclass(frozen=True, slots=True)
class Corrections:
    """What to change about stored samples.

    Attributes:
        relabel: digest of a sample -> its right label.
        remove: digests of the samples to leave out.
    """

    relabel: Mapping[str, str]
    remove: frozenset[str]

    @classmethod
    def of(cls, relabel: Mapping[str, str], remove: Collection[str]) -> Self:
        """Check corrections as far as that needs no stored sample, and normalise their labels.

        Raises:
            NothingToCorrect: there are none.
            InvalidRequest: a sample is to be relabelled and removed.
            InvalidName: a label is not valid.
        """
        if not relabel and not remove:
            raise NothingToCorrect("the request changes nothing; name samples in 'relabel' or 'remove' by their digest")
        both = sorted(set(relabel).intersection(remove))
        if both:
            raise InvalidRequest(f"'relabel' and 'remove' both have {_listed(both)}; name a sample in one of them")
        return cls({digest: validate_label(label) for digest, label in relabel.items()}, frozenset(remove))

    def apply(self, client: str, kept: Sequence[SampleRef]) -> tuple[SampleRef, ...]:
        """Return the kept samples of a client as corrected, in their order.

        Raises:
            UnknownSample: a digest is that of no kept sample; the message names up to `_MOST_NAMED` of them.
            NothingToCorrect: all samples have these labels already.
            TooFewClasses: no sample would be left.
        """
        labels = {sample.digest: sample.label for sample in kept}
        unknown = [digest for digest in [*self.relabel, *sorted(self.remove)] if digest not in labels]
        if unknown:
            raise UnknownSample(
                f"client {client!r} keeps no sample {_listed(unknown)}; list those that it keeps with "
                f"GET /clients/{client}/samples"
            )
        if not self.remove and all(labels[digest] == label for digest, label in self.relabel.items()):
            raise NothingToCorrect(f"the samples of client {client!r} have these labels already")
        corrected = tuple(
            replace(sample, label=self.relabel.get(sample.digest, sample.label))
            for sample in kept
            if sample.digest not in self.remove
        )
        if not corrected:
            raise TooFewClasses("all samples would be removed; keep samples of at least two classes")
        return corrected

    def notes(self, before: Collection[str], after: Collection[str]) -> list[Reason]:
        """Describe the corrections, and the classes of `before` that are missing `after` them, for a person."""
        relabelled, removed = len(self.relabel), len(self.remove)
        text = f"corrected samples: {relabelled} relabelled, {removed} removed"
        notes = [Reason("corrected", text, {"relabelled": relabelled, "removed": removed})]
        gone = [label for label in before if label not in after]
        if gone:
            text = f"classes without samples left: {', '.join(map(repr, gone))}"
            notes.append(Reason("classes_gone", text, first_of(classes=gone)))
        return notes


def _listed(digests: Sequence[str]) -> str:
    more = len(digests) - _MOST_NAMED
    named = ", ".join(repr(digest[:64]) for digest in digests[:_MOST_NAMED])
    return f"{named} and {more} more" if more > 0 else named
