"""Use case: adapt, unless processes have died of exactly that. It knows no file, and not how adapting is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from service.runtime.job_control import JobControl
from service.runtime.quarantine import Quarantine, digest_of
from service.usecases.adapt import AdaptCommand, AdaptOutcome


class Adapts(Protocol):
    """Whatever makes a version."""

    def run(self, command: AdaptCommand, ticket: JobControl) -> AdaptOutcome:
        """Make a version."""
        ...


class AdaptQuarantined:
    """Notes what is adapted while it is, and refuses what a process died of twice."""

    def __init__(self, adaptation: Adapts, quarantine: Quarantine) -> None:
        self._adaptation = adaptation
        self._guarded = quarantine.guarding(self._each, _digest)

    def run(self, command: AdaptCommand, ticket: JobControl) -> AdaptOutcome:
        """Adapt.

        Raises:
            RequestQuarantined: a process died of this request twice; what adapting raises comes as it is.
        """
        ((_, outcome),) = self._guarded([(command, ticket)])
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def _each(self, jobs: Sequence[tuple[AdaptCommand, JobControl]]) -> Iterator[tuple[int, AdaptOutcome]]:
        for place, (command, ticket) in enumerate(jobs):
            yield place, self._adaptation.run(command, ticket)


def _digest(job: tuple[AdaptCommand, JobControl]) -> bytes:
    command, _ = job
    chosen = (command.mode, command.steps, command.learning_rate, command.seed, command.publish)
    contents = (upload.content for upload in command.uploads)
    return digest_of("adapt", command.client, repr(chosen), repr(command.labels), *contents)
