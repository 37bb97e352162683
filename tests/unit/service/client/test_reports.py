"""What the client reads of a version's report, and of two versions side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from service.client.client import Client
from service.client.reports import ClassEstimate, DroppedClass, HeldOut, Suspect, read_report
from service.domain.version import LIVE, SampleRef
from tests.contract.values import a_draft, digest_of
from tests.in_process import InProcess, Web
from tests.unit.service.fakes import report

FULL: dict[str, Any] = {
    **report("hold"),
    "estimated_accuracy": 0.8,
    "interval": [0.6, 0.9],
    "temperature": 1.2,
    "unknown_threshold": 0.1,
    "suspects": [{"sample": "a.png", "label": "dent", "predicted": "scratch", "confidence": 0.9}],
    "confusion": [[1, 0], [1, 1]],
    "folds": 3,
    "gate": {
        "decision": "hold",
        "reasons": ["class 'dent' dropped"],
        "floor": 0.75,
        "dropped": [{"label": "dent", "judged": 4, "before": 4, "after": 1}],
    },
}


def test_a_full_report_is_read_with_all_that_it_says() -> None:
    read = read_report(FULL)
    assert (read.estimated_accuracy, read.interval, read.folds) == (0.8, (0.6, 0.9), 3)
    assert read.suspects == (Suspect("a.png", "dent", "scratch", 0.9),)
    assert read.confusion == ((1, 0), (1, 1))
    assert (read.gate.floor, read.gate.dropped) == (0.75, (DroppedClass("dent", 4, 4, 1),))


def test_two_versions_are_compared_through_the_service(web: Web, in_process: InProcess) -> None:
    first = replace(a_draft(), report={**FULL, "held_out": [[0, 0.9, True], [1, 0.8, True]]})
    samples = (*(SampleRef(own.digest, own.label, own.name) for own in first.samples),)
    second = replace(
        a_draft(),
        classes=("dent", "scratch", "pit"),
        samples=(*samples, SampleRef(digest_of("pit-1"), "pit", "pit-1.png")),
        report={
            **FULL,
            "confusion": [[0, 1, 0], [0, 1, 0], [0, 0, 0]],
            "held_out": [[1, 0.7, False], [1, 0.8, True], None],
        },
    )
    for draft in (first, second):
        web.services.lifecycle.add(draft, [LIVE])
    with Client(transport=in_process) as anole:
        diff = anole.diff(first.client, 1, 2)
    assert (diff.before, diff.after, diff.added, diff.samples_added) == (1, 2, ("pit",), 1)
    assert {own.label: own.after for own in diff.classes} == {
        "dent": ClassEstimate(1, 0, 0.0),
        "scratch": ClassEstimate(1, 1, 1.0),
        "pit": ClassEstimate(0, 0, None),
    }
    (changed,) = diff.changed
    assert changed.name == first.samples[0].name
    assert changed.before == HeldOut("dent", 0.9, "known")
    assert changed.after == HeldOut("scratch", 0.7, "unknown")
