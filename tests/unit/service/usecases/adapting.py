"""Requests to adapt, and controls that act while an adaptation runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from service.domain.job import Stage
from service.domain.version import Idempotency
from service.runtime.adapt_queue import JobControl
from service.runtime.decoder import Upload
from service.usecases.adapt import Adaptation
from service.usecases.adapt_command import AdaptCommand, AdaptOutcome
from tests.generated import striped

CLIENT: Final = "line"
KEY: Final = Idempotency("key-1", "1" * 64)
PERIODS: Final = {"fine": 4, "coarse": 13}


def command(samples: int = 1, seed: int = 0, **fields: Any) -> AdaptCommand:
    """Return a request with that many samples of two classes. Another `seed` gives other images."""
    labels = [label for label in PERIODS for _ in range(samples)]
    contents = [content for period in PERIODS.values() for content in striped(samples, period, seed)]
    uploads = tuple(Upload(f"{seed}-{index}.png", content) for index, content in enumerate(contents))
    defaults = {"labels": tuple(labels), "publish": "always", "steps": 0}
    return AdaptCommand(CLIENT, uploads, **{**defaults, **fields})


def adapt(adaptation: Adaptation, request: AdaptCommand, control: JobControl | None = None) -> AdaptOutcome:
    """Accept a request and run it at once."""
    control = control or JobControl()
    return adaptation.run(adaptation.accept(request, control), control)


def in_stage(stage: Stage, act: Callable[[], object]) -> JobControl:
    """Return a control that calls `act` each time its adaptation enters the stage."""
    control = JobControl()
    control.on_change(lambda: act() if control.progress.stage == stage else None)
    return control


def reasons(outcome: AdaptOutcome) -> list[str]:
    return list(outcome.version.draft.report["gate"]["reasons"])


def names(outcome: AdaptOutcome) -> list[str]:
    return [sample.name for sample in outcome.version.draft.samples]


def details(outcome: AdaptOutcome) -> dict[str, Any]:
    """The values of each reason of the gate, by its code."""
    return {each["code"]: each["values"] for each in outcome.version.draft.report["gate"]["details"]}
