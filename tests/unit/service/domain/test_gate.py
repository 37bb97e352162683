"""Gate decisions and their reasons, reports, and diffs of versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

import pytest

from models.validation.cross_validation import CrossValidationSkipped
from service.domain.client import ClientSettings
from service.domain.diff import compare
from service.domain.gate import GateDecision, Limits, decide
from service.domain.reason import Reason
from service.domain.report import HeldOutPrediction, class_estimates, held_out_predictions, report_fields
from service.domain.version import HELD_OUT, Lineage, SampleRef, Version, VersionDraft
from service.errors import InvalidRequest
from tests.contract.values import a_draft, digest_of

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DEFAULTS = ClientSettings()
ONE_SAMPLE = CrossValidationSkipped("one_sample_per_class", "every class has one sample")


def record(predictions: Mapping[str, Sequence[str | None]], estimate: float | None = 0.9) -> VersionDraft:
    """Make a draft from the held-out predictions of each class; None for a sample that was not held out."""
    classes = tuple(predictions)
    rows = [[label for label in predicted if label is not None] for predicted in predictions.values()]
    report: dict[str, Any] = {
        "estimated_accuracy": estimate,
        "interval": None if estimate is None else [estimate - 0.1, min(1.0, estimate + 0.1)],
        "confusion": [[row.count(label) for label in classes] for row in rows],
        HELD_OUT: [
            None if label is None else [classes.index(label), 0.75, True]
            for predicted in predictions.values()
            for label in predicted
        ],
    }
    samples = tuple(
        SampleRef(digest_of(f"{label}-{index}"), label, f"{label}-{index}.png")
        for label, predicted in predictions.items()
        for index in range(len(predicted))
    )
    return replace(a_draft(), classes=classes, samples=samples, report=report)


def version(draft: VersionDraft, number: int = 1) -> Version:
    return Version(number, NOON, draft)


def decided(
    draft: VersionDraft,
    earlier: VersionDraft | None = None,
    settings: ClientSettings = DEFAULTS,
    publish: Literal["auto", "always", "never"] = "auto",
) -> GateDecision:
    why = None if draft.report["estimated_accuracy"] is not None else ONE_SAMPLE
    before = None if earlier is None else version(earlier)
    return decide(publish, draft, settings, Lineage(before, before, before), why)


GOOD = record({"pit": ["pit"] * 4, "scratch": ["scratch"] * 4})
WORSE = record({"pit": ["pit", "scratch", "scratch", "pit"], "scratch": ["scratch"] * 4})
TEN = record({"pit": ["pit"] * 10, "scratch": ["scratch"] * 10})
TEN_WORSE = record({"pit": ["pit"] * 4 + ["scratch"] * 6, "scratch": ["scratch"] * 10})


def test_a_version_whose_estimate_reaches_the_floor_is_published() -> None:
    decision = decided(GOOD)
    assert decision.decision == "publish"
    assert "90.0 %" in decision.reasons[0]
    assert "75.0 %" in decision.reasons[0]


def test_a_version_below_the_floor_is_held_with_advice() -> None:
    decision = decided(record({"pit": ["pit"], "scratch": ["pit"]}, estimate=0.6))
    assert decision.decision == "hold"
    assert "60.0 % is below the floor of 75.0 %" in decision.reasons[0]
    assert "publish=always" in decision.reasons[-1]


@pytest.mark.parametrize(("n_way", "floor"), [(2, 0.75), (5, 0.6), (50, 0.51)])
def test_the_default_floor_is_half_way_between_chance_and_1(n_way: int, floor: float) -> None:
    assert Limits.of(DEFAULTS, n_way).floor == pytest.approx(floor)


@pytest.mark.parametrize(("floor", "decision"), [(0.9, "publish"), (0.91, "hold"), (0.0, "publish")])
def test_a_client_can_set_its_own_floor(floor: float, decision: str) -> None:
    found = decided(GOOD, settings=ClientSettings(floor=floor))
    assert (found.decision, found.limits.floor) == (decision, floor)


def test_a_version_without_an_estimate_is_held() -> None:
    decision = decided(record({"pit": [None], "scratch": [None]}, estimate=None))
    assert decision.decision == "hold"
    assert "every class has one sample" in decision.reasons[0]


def test_with_a_floor_of_zero_a_version_without_an_estimate_is_published() -> None:
    decision = decided(record({"pit": [None], "scratch": [None]}, estimate=None), settings=ClientSettings(floor=0.0))
    assert decision.decision == "publish"
    assert "without an estimated accuracy" in decision.reasons[0]


def test_a_version_that_gets_an_earlier_class_wrong_is_held() -> None:
    decision = decided(TEN_WORSE, earlier=TEN)
    assert decision.decision == "hold"
    assert "'pit' got worse: version 1 predicted 10 of its 10 kept samples correctly" in decision.reasons[0]
    assert "this version predicts 4" in decision.reasons[0]
    assert "the next extension builds on version 1" in decision.reasons[-1]
    assert "builds on it" in decided(replace(TEN_WORSE, parent=1), earlier=TEN).reasons[-1]
    (dropped,) = decision.to_json()["dropped"]
    assert dropped == {"label": "pit", "judged": 10, "before": 10, "after": 4}


@pytest.mark.parametrize(("wrong", "decision"), [(2, "publish"), (4, "publish"), (5, "hold")])
def test_a_loss_that_may_be_chance_does_not_hold_a_version(wrong: int, decision: str) -> None:
    before = record({"pit": ["pit"] * 7, "scratch": ["scratch"] * 7})
    after = record({"pit": ["scratch"] * wrong + ["pit"] * (7 - wrong), "scratch": ["scratch"] * 7})
    assert decided(after, before).decision == decision


def test_samples_that_became_right_count_against_those_that_became_wrong() -> None:
    before = record({"pit": ["pit"] * 8 + ["scratch"] * 4, "scratch": ["scratch"] * 4})
    mixed = record({"pit": ["scratch"] * 7 + ["pit"] * 5, "scratch": ["scratch"] * 4})
    assert decided(mixed, before, ClientSettings(tolerance=0.2)).decision == "hold"
    assert decided(mixed, before).decision == "publish"


def test_a_small_loss_is_named_when_the_version_is_published() -> None:
    before = record({"pit": ["pit"] * 3, "scratch": ["scratch"] * 4})
    after = record({"pit": ["pit", "scratch", "pit"], "scratch": ["scratch"] * 4})
    decision = decided(after, before)
    assert decision.decision == "publish"
    assert (
        decision.reasons[-1] == "this version predicts fewer kept samples correctly: 2 instead of 3 of 3 in class 'pit'"
    )
    assert not any("fewer kept samples" in reason for reason in decided(before, after).reasons)


def many(predicted: Mapping[int, Sequence[str | None]], classes: int = 40) -> VersionDraft:
    """Make a draft of many classes with two or so samples each, all predicted correctly except for some classes."""
    return record({f"c{index}": predicted.get(index, [f"c{index}"] * 10) for index in range(classes)})


@pytest.mark.parametrize(
    ("failed", "earlier", "named"),
    [
        (["c39"] * 10, None, "classes 'c0', 'c1', 'c2' and 27 more were never recognised: 300 of their samples were"),
        ([None], None, "the estimate leaves out classes 'c0', 'c1', 'c2' and 27 more; send samples of two"),
        (["c39"] * 6 + [None] * 4, many({}), "27 more classes got worse, see `dropped`"),
    ],
)
def test_of_many_classes_a_few_are_named_and_the_others_counted(
    failed: Sequence[str | None], earlier: VersionDraft | None, named: str
) -> None:
    decision = decided(many(dict.fromkeys(range(30), failed)), earlier)
    assert any(reason.startswith(named) for reason in decision.reasons)
    assert len(" ".join(decision.reasons)) < 1500


def test_the_classes_that_lost_most_are_named_first() -> None:
    lost = {index: ["c39"] * (5 + index) + [f"c{index}"] * (5 - index) for index in range(5)}
    reasons = decided(many(lost), many({})).reasons
    assert [reason[:16] for reason in reasons[:3]] == ["class 'c4' got w", "class 'c3' got w", "class 'c2' got w"]
    assert reasons[3] == "2 more classes got worse, see `dropped`"


def test_a_part_that_is_in_two_classes_is_named() -> None:
    parts = ["p1", "p2", None, None, "p1", None, None, None]
    samples = tuple(replace(sample, part=part) for sample, part in zip(GOOD.samples, parts, strict=True))
    decision = decided(replace(GOOD, samples=samples))
    assert decision.decision == "publish"
    assert decision.reasons[-1].startswith("samples of part 'p1' are in more than one class")
    assert not any("more than one class" in reason for reason in decided(GOOD).reasons)


def test_without_an_estimate_the_reasons_say_that_no_image_is_called_unknown() -> None:
    decision = decided(record({"pit": [None], "scratch": [None]}, estimate=None))
    assert any("no threshold for unknown images" in reason for reason in decision.reasons)
    assert not any("no threshold" in reason for reason in decided(GOOD).reasons)


def test_each_reason_has_a_code_with_its_numbers() -> None:
    before = record({"pit": ["pit"] * 3, "scratch": ["scratch"] * 4})
    after = record({"pit": ["pit", "scratch", "pit"], "scratch": ["scratch"] * 4})
    published = decided(after, before).to_json()
    assert [(detail["code"], detail["values"]) for detail in published["details"]] == [
        ("estimate_reaches_floor", {"estimate": 0.9, "low": 0.8, "high": 1.0, "floor": 0.75}),
        ("no_class_got_worse", {"version": 1, "tolerance": 0.25}),
        ("fewer_correct", {"classes": [{"label": "pit", "judged": 3, "before": 3, "after": 2}], "more": 0}),
    ]
    assert published["reasons"][1] == (
        "no class of version 1 clearly lost more than the tolerance, 25.0 % of its kept samples"
    )
    held = decided(record({"pit": ["pit"] * 4, "scratch": ["pit"] * 4, "stain": [None]}, estimate=0.5)).to_json()
    assert [(detail["code"], detail["values"]) for detail in held["details"]] == [
        ("estimate_below_floor", {"estimate": 0.5, "floor": 2 / 3}),
        ("classes_not_estimated", {"classes": ["stain"], "more": 0}),
        ("classes_never_recognised", {"classes": ["scratch"], "more": 0, "judged": 4}),
        ("next_builds_on_it", {}),
    ]
    for decision in (published, held):
        assert [detail["text"] for detail in decision["details"]] == decision["reasons"]


@pytest.mark.parametrize(("tolerance", "percent"), [(0.5, "50.0 %"), (1.0, "100.0 %")])
def test_a_version_that_lost_as_much_as_the_client_allows_goes_live_and_says_how_much_that_is(
    tolerance: float, percent: str
) -> None:
    before = record({"pit": ["pit"] * 20, "scratch": ["scratch"] * 4})
    after = record({"pit": ["pit"] * 10 + ["scratch"] * 10, "scratch": ["scratch"] * 4})
    decision = decided(after, before, ClientSettings(tolerance=tolerance))
    assert decision.decision == "publish"
    assert decision.details[1].values == {"version": 1, "tolerance": tolerance}
    assert decision.reasons[1] == f"no class of version 1 lost more than the tolerance, {percent} of its kept samples"
    assert decided(after, before, ClientSettings(tolerance=0.0)).decision == "hold"


def test_a_reason_without_an_estimate_has_the_code_of_its_cause() -> None:
    decision = decided(record({"pit": [None], "scratch": [None]}, estimate=None), publish="always")
    assert [detail.code for detail in decision.details] == [
        "publish_always",
        "one_sample_per_class",
        "no_unknown_verdict",
    ]


def test_of_many_classes_a_detail_has_the_first_and_counts_the_others() -> None:
    lost = {index: ["c39"] * (5 + index) + [f"c{index}"] * (5 - index) for index in range(5)}
    details = decided(many(lost), many({})).details
    assert details[0].values == {"version": 1, "label": "c4", "judged": 10, "before": 10, "after": 1}
    assert (details[3].code, details[3].values) == ("more_classes_got_worse", {"more": 2})
    never = decided(many(dict.fromkeys(range(30), ["c39"] * 10))).details[0]
    assert never.values == {"classes": ["c0", "c1", "c2"], "more": 27, "judged": 300}


def test_notes_about_the_request_are_among_the_reasons() -> None:
    for publish in ("auto", "always", "never"):
        lineage = Lineage(None, None, None)
        note = Reason("repeated_files", "a note", {"copies": 1, "files": 9})
        decision = decide(publish, GOOD, DEFAULTS, lineage, None, [note])
        assert "a note" in decision.reasons
        assert decision.to_json()["notes"] == ["a note"]
        assert note.to_json() in decision.to_json()["details"]


def test_a_loss_spread_over_all_classes_holds_a_version() -> None:
    labels = "abcde"
    before = record({label: [label] * 4 for label in labels})
    after = record({label: ["a" if label != "a" else "b"] * 2 + [label] * 2 for label in labels})
    decision = decided(after, before)
    assert (decision.decision, decision.dropped) == ("hold", ())
    assert "the version got worse: version 1 predicted 20 of its 20 kept samples correctly" in decision.reasons[0]
    assert decision.details[0].code == "version_got_worse"


def test_a_corrected_label_is_not_compared() -> None:
    moved = tuple(replace(sample, label="scratch") for sample in TEN.samples[:6])
    after = replace(TEN_WORSE, samples=(*moved, *TEN_WORSE.samples[6:]))
    assert decided(after, TEN).decision == "publish"


def test_a_sample_whose_new_label_the_earlier_version_predicted_is_not_compared() -> None:
    before = record({"pit": ["pit"] * 4, "scratch": ["scratch"] * 4 + ["pit"] * 6})
    after = record({"pit": ["pit"] * 4, "scratch": ["scratch"] * 10})
    relabelled = tuple(replace(sample, label="pit") for sample in after.samples[8:])
    decision = decided(replace(after, samples=(*after.samples[:8], *relabelled)), before)
    assert (decision.decision, decision.dropped) == ("publish", ())


def test_one_lost_sample_is_within_the_default_tolerance_but_not_within_zero() -> None:
    one_lost = record({"pit": ["pit", "scratch"], "scratch": ["scratch"] * 2})
    before = record({"pit": ["pit"] * 2, "scratch": ["scratch"] * 2})
    assert decided(one_lost, before).decision == "publish"
    assert decided(one_lost, before, ClientSettings(tolerance=0.0)).decision == "hold"
    assert decided(one_lost, before, ClientSettings(tolerance=0.5)).decision == "publish"


def test_new_classes_and_samples_do_not_count_as_lost() -> None:
    more = record({"pit": ["pit"] * 4 + ["scratch"] * 4, "scratch": ["scratch"] * 4, "stain": ["pit", "pit", "stain"]})
    assert decided(more, GOOD).decision == "publish"


def test_an_earlier_version_without_cross_validation_is_not_compared() -> None:
    before = replace(GOOD, report={"estimated_accuracy": None})
    decision = decided(GOOD, before)
    assert (decision.decision, len(decision.reasons)) == ("publish", 1)


def test_always_and_never_override_the_gate_and_its_objections_are_still_reported() -> None:
    always = decided(TEN_WORSE, TEN, publish="always")
    assert (always.decision, len(always.dropped)) == ("publish", 1)
    assert "publish=always" in always.reasons[0]
    assert "'pit' got worse" in always.reasons[1]
    assert decided(GOOD, publish="never").decision == "hold"


def test_classes_whose_images_nearly_repeat_each_other_are_named_and_do_not_decide() -> None:
    alike = {"alike": ["pit"]}
    published = decided(replace(GOOD, report={**GOOD.report, **alike}))
    held = decided(replace(GOOD, report={**GOOD.report, **alike, "estimated_accuracy": 0.6}))
    assert (published.decision, held.decision) == ("publish", "hold")
    for decision in (published, held):
        assert any("images of 'pit' nearly repeat each other" in reason for reason in decision.reasons)
    assert not any("repeat" in reason for reason in decided(GOOD).reasons)


def test_classes_that_differ_only_in_case_are_named_and_do_not_decide() -> None:
    decision = decided(record({"Pit": ["Pit"] * 6, "pit": ["pit"] * 6, "stain": ["stain"] * 6}))
    assert any("classes 'Pit', 'pit' differ only in case" in reason for reason in decision.reasons)
    assert decision.decision == "publish"
    assert not any("differ only" in reason for reason in decided(GOOD).reasons)


def test_a_class_that_is_not_part_of_the_estimate_is_named_and_holds() -> None:
    decision = decided(record({"pit": ["pit"] * 4, "stain": [None]}))
    assert decision.decision == "hold"
    assert "the estimate leaves out class 'stain'" in decision.reasons[0]


def test_a_class_that_was_never_recognised_is_named_and_holds() -> None:
    decision = decided(record({"good": ["good"] * 50, "defect": ["good"] * 2}, estimate=0.97))
    assert decision.decision == "hold"
    assert decision.reasons[0] == "class 'defect' was never recognised: 2 of its samples were held out"


@pytest.mark.parametrize(
    ("low", "settings", "decision"),
    [
        (0.49, DEFAULTS, "hold"),
        (0.51, DEFAULTS, "publish"),
        (0.51, ClientSettings(lower_bound=0.6), "hold"),
        (0.28, ClientSettings(lower_bound=0.2), "publish"),
        (0.35, ClientSettings(floor=0.3), "publish"),
        (0.28, ClientSettings(floor=0.3), "hold"),
        (0.0, ClientSettings(floor=0.0), "publish"),
    ],
)
def test_a_version_whose_interval_begins_below_the_bound_is_held(
    low: float, settings: ClientSettings, decision: str
) -> None:
    draft = replace(GOOD, report={**GOOD.report, "interval": [low, 1.0]})
    found = decided(draft, settings=settings)
    assert found.decision == decision
    if decision == "hold":
        assert f"may be as low as {100 * low:.1f} %" in found.reasons[0]
        assert f"the lower bound of {100 * found.limits.lower_bound:.1f} %" in found.reasons[0]
        assert found.to_json()["lower_bound"] == found.limits.lower_bound


@pytest.mark.parametrize(
    ("predictions", "least_certain"),
    [
        pytest.param({"pit": ["pit"] * 4, "dent": ["pit", "pit", "dent", "dent"]}, "dent", id="as many samples"),
        pytest.param({"pit": ["pit"] * 4, "dent": ["dent"] * 2}, "dent", id="all correct, fewer samples"),
        pytest.param({"pit": ["pit"] * 3, "dent": ["dent"] * 19 + ["pit"]}, "pit", id="one error among many samples"),
    ],
)
def test_a_held_version_names_the_class_whose_samples_narrow_the_interval_most(
    predictions: dict[str, list[str]], least_certain: str
) -> None:
    draft = record(predictions)
    found = decided(replace(draft, report={**draft.report, "interval": [0.2, 1.0]}))
    assert found.details[0].code == "interval_below_bound"
    assert found.reasons[0].endswith(f"first of all more of class {least_certain!r}")


@pytest.mark.parametrize("name", ["floor", "lower_bound", "tolerance"])
@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_a_share_outside_its_range_is_rejected(name: str, value: float) -> None:
    with pytest.raises(InvalidRequest, match=name):
        ClientSettings(**{name: value})  # type: ignore[arg-type]


def test_held_out_predictions_and_estimates_are_read_from_the_record() -> None:
    predictions = held_out_predictions(WORSE)
    assert predictions[digest_of("pit-1")] == HeldOutPrediction("scratch", 0.75, True)
    estimates = class_estimates(WORSE)
    assert (estimates["pit"].total, estimates["pit"].correct, estimates["pit"].accuracy) == (4, 2, 0.5)
    assert class_estimates(record({"pit": ["pit"], "stain": [None]}))["stain"].accuracy is None


def test_a_recorded_threshold_is_a_familiarity_and_is_answered_as_an_unknown_score() -> None:
    for recorded, answered in ((0.1, 0.9), (None, None)):
        draft = replace(GOOD, report={**GOOD.report, "unknown_threshold": recorded})
        assert report_fields(draft) == {**GOOD.report, "unknown_threshold": answered}
    assert report_fields(GOOD)["unknown_threshold"] is None  # a version of a release without thresholds


def test_a_diff_lists_classes_counts_and_changed_samples() -> None:
    later = record({"scratch": ["scratch"] * 4, "pit": ["pit", "pit", "scratch"], "stain": ["stain"]})
    diff = compare(version(GOOD), version(later, 2))
    assert (diff.added, diff.removed) == (("stain",), ())
    assert (diff.kept, diff.samples_added, diff.samples_removed) == (7, 1, 1)
    (changed,) = diff.changed
    assert changed.sample.digest == digest_of("pit-2")
    assert changed.before is not None and changed.before.label == "pit"  # noqa: PT018
    assert changed.after is not None and changed.after.label == "scratch"  # noqa: PT018
    by_label = {one.label: one for one in diff.classes}
    assert by_label["stain"].before is None
    assert by_label["pit"].after is not None and by_label["pit"].after.correct == 2  # noqa: PT018


def test_a_relabelled_sample_is_in_the_diff_even_if_its_prediction_stays() -> None:
    samples = (replace(GOOD.samples[0], label="scratch"), *GOOD.samples[1:])
    (changed,) = compare(version(GOOD), version(replace(GOOD, samples=samples), 2)).changed
    assert (changed.label_before, changed.sample.label) == ("pit", "scratch")
