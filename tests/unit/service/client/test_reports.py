"""The client reads reports and comparisons of versions."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from service.client import Client
from service.domain.version import LIVE, SampleRef
from service.http.schemas.reports import ClassEstimate, HeldOutPrediction, LabelIssue, Report
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


def test_a_report_is_read_completely_and_fields_of_newer_services_are_ignored() -> None:
    gate = {**FULL["gate"], "newer": True}
    read = Report.model_validate_json(json.dumps({**FULL, "gate": gate, "newer": 1}))
    assert (read.estimated_accuracy, read.interval, read.folds) == (0.8, (0.6, 0.9), 3)
    assert read.suspects == [LabelIssue(sample="a.png", label="dent", predicted="scratch", confidence=0.9)]
    assert read.confusion == [[1, 0], [1, 1]]
    assert read.gate.details == []  # of a release that did not record them
    (dropped,) = read.gate.dropped
    assert (read.gate.floor, dropped.label, dropped.judged, dropped.before, dropped.after) == (0.75, "dent", 4, 4, 1)


def test_two_versions_are_compared_through_the_service(web: Web, in_process: InProcess) -> None:
    first = replace(a_draft(), report={**FULL, "held_out": [[0, 0.9, True], [1, 0.8, True]]})
    samples = tuple(SampleRef(sample.digest, sample.label, sample.name) for sample in first.samples)
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
        web.services.clients.add(draft, [LIVE])
    with Client(transport=in_process) as anole:
        diff = anole.diff(first.client, 1, 2)
    assert (diff.before, diff.after, diff.added, diff.samples_added) == (1, 2, ["pit"], 1)
    assert {entry.label: entry.after for entry in diff.classes} == {
        "dent": ClassEstimate(judged=1, right=0, estimate=0.0),
        "scratch": ClassEstimate(judged=1, right=1, estimate=1.0),
        "pit": ClassEstimate(judged=0, right=0, estimate=None),
    }
    (changed,) = diff.changed
    assert changed.name == first.samples[0].name
    assert changed.before == HeldOutPrediction(label="dent", confidence=0.9, verdict="known")
    assert changed.after == HeldOutPrediction(label="scratch", confidence=0.7, verdict="unknown")
