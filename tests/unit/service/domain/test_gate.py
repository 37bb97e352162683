"""The gate's decisions, from records made here: live, or kept aside, and the reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

import pytest

from service.domain.client import ClientSettings
from service.domain.diff import compare
from service.domain.gate import Decision, decide, default_floor
from service.domain.report import HELD_OUT, HeldOutPrediction, class_estimates, held_out
from service.domain.version import SampleRef, Version, VersionDraft
from service.errors import InvalidRequest
from tests.contract.values import a_draft, digest_of

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DEFAULTS = ClientSettings()


def record(answers: Mapping[str, Sequence[str | None]], estimate: float | None = 0.9) -> VersionDraft:
    """A draft whose samples were answered for as given, class by class; None for a sample never left out."""
    classes = tuple(answers)
    rows = [[answer for answer in named if answer is not None] for named in answers.values()]
    report: dict[str, Any] = {
        "estimated_accuracy": estimate,
        "interval": None if estimate is None else [estimate - 0.1, min(1.0, estimate + 0.1)],
        "confusion": [[row.count(label) for label in classes] for row in rows],
        HELD_OUT: [
            None if answer is None else [classes.index(answer), 0.75, True]
            for named in answers.values()
            for answer in named
        ],
    }
    samples = tuple(
        SampleRef(digest_of(f"{label}-{place}"), label, f"{label}-{place}.png")
        for label, named in answers.items()
        for place in range(len(named))
    )
    return replace(a_draft(), classes=classes, samples=samples, report=report)


def version(draft: VersionDraft, number: int = 1) -> Version:
    return Version(number, NOON, draft)


def decided(
    draft: VersionDraft,
    earlier: VersionDraft | None = None,
    settings: ClientSettings = DEFAULTS,
    wanted: Literal["auto", "always", "never"] = "auto",
) -> Decision:
    why = None if draft.report["estimated_accuracy"] is not None else "every class has one sample"
    return decide(wanted, draft, settings, None if earlier is None else version(earlier), why)


GOOD = record({"pit": ["pit"] * 4, "scratch": ["scratch"] * 4})
WORSE = record({"pit": ["pit", "scratch", "scratch", "pit"], "scratch": ["scratch"] * 4})


def test_an_estimate_that_reaches_the_floor_goes_live_and_the_reason_names_both() -> None:
    decision = decided(GOOD)
    assert decision.decision == "publish"
    assert "90.0 %" in decision.reasons[0]
    assert "75.0 %" in decision.reasons[0]


def test_an_estimate_below_the_floor_is_held_and_the_reason_says_what_to_do() -> None:
    decision = decided(record({"pit": ["pit"], "scratch": ["pit"]}, estimate=0.6))
    assert decision.decision == "hold"
    assert "60.0 % is below the floor of 75.0 %" in decision.reasons[0]
    assert "publish=always" in decision.reasons[-1]


@pytest.mark.parametrize(("n_way", "floor"), [(2, 0.75), (5, 0.6), (50, 0.51)])
def test_the_default_floor_is_half_way_from_guessing_to_perfection(n_way: int, floor: float) -> None:
    assert default_floor(n_way) == pytest.approx(floor)


@pytest.mark.parametrize(("floor", "decision"), [(0.9, "publish"), (0.91, "hold"), (0.0, "publish")])
def test_a_clients_own_floor_holds_for_it(floor: float, decision: str) -> None:
    own = decided(GOOD, settings=ClientSettings(floor=floor))
    assert (own.decision, own.floor) == (decision, floor)


def test_without_an_estimate_nothing_goes_live_by_itself_and_the_reason_says_why() -> None:
    decision = decided(record({"pit": [None], "scratch": [None]}, estimate=None))
    assert decision.decision == "hold"
    assert "every class has one sample" in decision.reasons[0]


def test_a_floor_of_nothing_lets_a_version_without_an_estimate_go_live() -> None:
    decision = decided(record({"pit": [None], "scratch": [None]}, estimate=None), settings=ClientSettings(floor=0.0))
    assert decision.decision == "publish"
    assert "without an estimate" in decision.reasons[0]


def test_an_earlier_class_that_lost_kept_samples_holds_a_version_back() -> None:
    decision = decided(WORSE, earlier=GOOD)
    assert decision.decision == "hold"
    assert "'pit' dropped: of 4 kept samples 4 were named rightly in version 1, 2 are now" in decision.reasons[0]
    assert "builds on version 1 again" in decision.reasons[-1]
    (own,) = decision.to_json()["dropped"]
    assert own == {"label": "pit", "judged": 4, "before": 4, "after": 2}


def test_one_sample_lost_is_within_the_default_tolerance_and_not_within_none() -> None:
    one_lost = record({"pit": ["pit", "scratch"], "scratch": ["scratch"] * 2})
    before = record({"pit": ["pit"] * 2, "scratch": ["scratch"] * 2})
    assert decided(one_lost, before).decision == "publish"
    assert decided(one_lost, before, ClientSettings(tolerance=0.0)).decision == "hold"
    assert decided(one_lost, before, ClientSettings(tolerance=0.5)).decision == "publish"


def test_a_new_class_and_new_samples_are_no_loss() -> None:
    more = record({"pit": ["pit"] * 4 + ["scratch"] * 4, "scratch": ["scratch"] * 4, "stain": ["pit"] * 3})
    assert decided(more, GOOD).decision == "publish"


def test_an_earlier_version_without_an_examination_holds_nothing_back() -> None:
    before = replace(GOOD, report={"estimated_accuracy": None})
    decision = decided(GOOD, before)
    assert (decision.decision, len(decision.reasons)) == ("publish", 1)


def test_always_and_never_overrule_the_gate_and_what_it_found_is_said_all_the_same() -> None:
    always = decided(WORSE, GOOD, wanted="always")
    assert (always.decision, len(always.dropped)) == ("publish", 1)
    assert "in any case" in always.reasons[0]
    assert "'pit' dropped" in always.reasons[1]
    assert decided(GOOD, wanted="never").decision == "hold"


def test_a_class_that_no_fold_could_leave_out_is_named() -> None:
    decision = decided(record({"pit": ["pit"] * 4, "stain": [None]}))
    assert decision.decision == "publish"
    assert "'stain' had no sample that could be left out" in decision.reasons[1]


@pytest.mark.parametrize("name", ["floor", "tolerance"])
@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_a_share_outside_its_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidRequest, match=name):
        ClientSettings(**{name: value})  # type: ignore[arg-type]


def test_answers_and_estimates_are_read_back_from_the_record() -> None:
    answers = held_out(WORSE)
    assert answers[digest_of("pit-1")] == HeldOutPrediction("scratch", 0.75, True)
    estimates = class_estimates(WORSE)
    assert (estimates["pit"].judged, estimates["pit"].right, estimates["pit"].share) == (4, 2, 0.5)
    assert class_estimates(record({"pit": ["pit"], "stain": [None]}))["stain"].share is None


def test_a_diff_names_classes_counts_and_the_samples_judged_differently() -> None:
    later = record({"scratch": ["scratch"] * 4, "pit": ["pit", "pit", "scratch"], "stain": ["stain"]})
    diff = compare(version(GOOD), version(later, 2))
    assert (diff.added, diff.removed) == (("stain",), ())
    assert (diff.kept, diff.samples_added, diff.samples_removed) == (7, 1, 1)
    (changed,) = diff.changed
    assert changed.sample.digest == digest_of("pit-2")
    assert changed.before is not None and changed.before.label == "pit"  # noqa: PT018
    assert changed.after is not None and changed.after.label == "scratch"  # noqa: PT018
    by_label = {own.label: own for own in diff.classes}
    assert by_label["stain"].before is None
    assert by_label["pit"].after is not None and by_label["pit"].after.right == 2  # noqa: PT018


def test_a_relabelled_sample_is_in_the_diff_even_where_the_verdict_stays() -> None:
    samples = (replace(GOOD.samples[0], label="scratch"), *GOOD.samples[1:])
    (changed,) = compare(version(GOOD), version(replace(GOOD, samples=samples), 2)).changed
    assert (changed.label_before, changed.sample.label) == ("pit", "scratch")
